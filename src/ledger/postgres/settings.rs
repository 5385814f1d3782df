//! Settings: where PostgreSQL is, as whom to go there, and whom to believe.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// How long bytes may stay unacknowledged before a connection counts as lost.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Where PostgreSQL is, and as whom. `config` fills it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Never shows its password.
    pub(super) server: Config,
    /// Authorities that the server's certificate must come from; `None`: the system's.
    pub(super) ca_file: Option<PathBuf>,
}

/// Why a text is no address of a PostgreSQL ledger; it is not repeated, since it may hold a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(String);

impl Settings {
    /// The settings written in `url`, as libpq reads them: `postgres://user:password@host:port/database?option=value`.
    ///
    /// With `sslmode` absent, a server on this machine is spoken to in the clear and any other by TLS. `disable` is in
    /// the clear; `require`, `verify-ca` and `verify-full` all mean TLS with the certificate verified, by name too.
    /// What falls back to the clear when told to (`allow`, `prefer`) is refused.
    pub fn new(url: &str, ca_file: Option<PathBuf>) -> Result<Self, BadUrl> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(BadUrl("is no URL that begins with postgres://".to_owned()));
        }
        let (url, mode) = without_mode(url);
        let mut server: Config =
            url.parse().map_err(|error| BadUrl(format!("cannot be read: {}", innermost(&error))))?;
        if server.get_hosts().is_empty() && server.get_hostaddrs().is_empty() {
            return Err(BadUrl("names no host".to_owned()));
        }
        if server.get_dbname().is_none() {
            return Err(BadUrl("names no database".to_owned()));
        }
        if server.get_user().is_none() {
            return Err(BadUrl("names no user".to_owned()));
        }
        let mode = match mode.as_deref() {
            None if ca_file.is_none() && is_here(&server) => SslMode::Disable,
            Some("disable") if ca_file.is_some() => {
                return Err(BadUrl("says sslmode=disable, but there is a `postgres_ca_file`".to_owned()));
            }
            Some("disable") => SslMode::Disable,
            None | Some("require" | "verify-ca" | "verify-full") => SslMode::Require,
            Some(_) => {
                return Err(BadUrl("has an sslmode that is none of disable, require and verify-full".to_owned()));
            }
        };
        server.ssl_mode(mode).application_name("tokenmeter").keepalives_idle(Duration::from_secs(10));
        server.keepalives_interval(Duration::from_secs(5)).keepalives_retries(3).tcp_user_timeout(USER_TIMEOUT);
        // Of several hosts, the one that takes records: a standby does not.
        server.target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self { server, ca_file })
    }

    /// The servers and the database, without user and password.
    pub(super) fn name(&self) -> String {
        let hosts: Vec<String> = self
            .server
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        format!("{} on {}", self.server.get_dbname().unwrap_or_default(), hosts.join(","))
    }
}

/// The URL without its `sslmode`, and that: not all that libpq knows are known to the client here.
fn without_mode(url: &str) -> (String, Option<String>) {
    let Some((front, options)) = url.split_once('?') else { return (url.to_owned(), None) };
    let mut mode = None;
    let rest: Vec<&str> = options
        .split('&')
        .filter(|option| match option.strip_prefix("sslmode=") {
            Some(value) => {
                mode = Some(value.to_owned());
                false
            }
            None => true,
        })
        .collect();
    (if rest.is_empty() { front.to_owned() } else { format!("{front}?{}", rest.join("&")) }, mode)
}

/// Whether every way to the server stays on this machine.
fn is_here(server: &Config) -> bool {
    let names = server.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
    });
    names && server.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str, ca_file: Option<&str>) -> Result<SslMode, String> {
        let settings = Settings::new(url, ca_file.map(PathBuf::from)).map_err(|error| error.to_string())?;
        Ok(settings.server.get_ssl_mode())
    }

    #[test]
    fn only_this_machine_and_who_says_so_is_spoken_to_in_the_clear() {
        for here in ["localhost", "127.0.0.1:5433", "[::1]", "%2Frun%2Fpostgresql", "localhost,127.0.0.1"] {
            assert_eq!(mode(&format!("postgres://u:p@{here}/d"), None), Ok(SslMode::Disable), "{here}");
            assert_eq!(mode(&format!("postgres://u:p@{here}/d"), Some("ca.pem")), Ok(SslMode::Require), "{here}");
        }
        for there in ["db.example", "10.0.0.5", "localhost,10.0.0.5"] {
            assert_eq!(mode(&format!("postgresql://u:p@{there}/d"), None), Ok(SslMode::Require), "{there}");
            let disabled = format!("postgres://u:p@{there}/d?connect_timeout=9&sslmode=disable");
            assert_eq!(mode(&disabled, None), Ok(SslMode::Disable), "{there}");
            assert!(mode(&disabled, Some("ca.pem")).unwrap_err().contains("postgres_ca_file"));
        }
        for verified in ["require", "verify-ca", "verify-full"] {
            assert_eq!(mode(&format!("postgres://u@localhost/d?sslmode={verified}"), None), Ok(SslMode::Require));
        }
        for refused in ["prefer", "allow", ""] {
            let error = mode(&format!("postgres://u@localhost/d?sslmode={refused}"), None).unwrap_err();
            assert!(error.contains("disable, require and verify-full"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_said_without_its_secret() {
        for bad in [
            "mysql://u:s3cret@h/d",
            "postgres://u:s3cret@h:x/d",
            "postgres://u:s3cret@/d",
            "postgres://u:s3cret@h",
            "postgres://h/s3cret",
            "postgres://u:s3cret@h/d?what=s3cret",
            "host=h password=s3cret",
        ] {
            let error = Settings::new(bad, None).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let settings = Settings::new("postgres://u:s3cret@h/d", None).unwrap();
        let shown = format!("{settings:?} {}", settings.name());
        assert!(!shown.contains("s3cret") && shown.ends_with("d on h"), "{shown}");
    }
}
