//! `serve`, `check`, `healthcheck`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use crate::app::{self, Addresses};
use crate::config::Config;
use crate::logging::{self, LogFormat};

/// Longest wait for the server's word on its health.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// `serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t, env = "TOKENMETER_LOG_FORMAT")]
    log_format: LogFormat,
    /// What is logged: `error`, `warn`, `info`, `debug`, or `tracing`'s directives.
    #[arg(long, default_value = "info", value_name = "FILTER", env = "TOKENMETER_LOG")]
    log: String,
}

impl Serve {
    pub(super) fn run(self, config: Config) -> anyhow::Result<ExitCode> {
        logging::start(self.log_format, &self.log);
        app::serve(config, |addresses| {
            if let Err(error) = super::print(&welcome(addresses)) {
                tracing::debug!(error = &*error, "cannot print where tokenmeter listens");
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn welcome(addresses: &Addresses) -> String {
    let Addresses { proxy, admin, upstreams, client_line, directory } = addresses;
    let reached = reachable(*proxy);
    let mut text = format!(
        "tokenmeter {version} listens
  proxy      http://{proxy}
  admin      http://{admin}   (page, /metrics, /healthz, /readyz)
  records    {directory}
  upstreams  {names}

",
        version = env!("CARGO_PKG_VERSION"),
        directory = directory.display(),
        names = upstreams.join(", "),
    );
    if let Some((variable, path)) = client_line {
        text.extend([
            "Point a client at it with one line:\n  ",
            variable,
            "=http://",
            &reached.to_string(),
            path,
            "\n",
        ]);
    }
    if upstreams.iter().any(|name| name == "demo") {
        let body = r#"{"model":"demo","messages":[{"role":"user","content":"Hello"}]}"#;
        let url = format!("http://{reached}/demo/v1/chat/completions");
        text.extend(["Make a first call without key or network:\n  curl ", &url, " \\\n"]);
        text.extend(["    -H 'content-type: application/json' -d '", body, "'\n"]);
    }
    text.push_str("Then see who used how much:\n  tokenmeter report\n\n");
    text
}

/// `check`.
pub(super) fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let count = config.upstreams.len();
    super::print(&format!("no problems; {count} upstream{}\n", if count == 1 { "" } else { "s" }))?;
    Ok(ExitCode::SUCCESS)
}

/// `healthcheck`.
pub(super) fn healthcheck(config: &Config) -> anyhow::Result<ExitCode> {
    let url = format!("http://{}/readyz", reachable(config.admin.listen));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, text) = runtime.block_on(async {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(HEALTH_TIMEOUT)
            .build()?;
        let response = client.get(&url).send().await.with_context(|| format!("no answer from {url}"))?;
        let status = response.status();
        anyhow::Ok((status, response.text().await?))
    })?;
    super::print(&text)?;
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A server that listens everywhere is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}
