//! Config: the TOML file read into the settings of every module, or every problem it has.
//!
//! In: a file, the environment. Out: [`Config`] or all [`Problem`]s at once. Nothing imports this module but the
//! wiring: each module owns its plain settings, and this one fills them.

mod counting;
mod payers;
mod reader;
mod secrets;
mod upstreams;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::tz::TimeZone;
use secrecy::{ExposeSecret as _, SecretString};

use crate::attribution;
use crate::config::reader::{Document, Section};
use crate::config::secrets::Secrets;
use crate::ids::{DepartmentId, NodeId, TeamId};
use crate::journal;
use crate::ledger::PostgresSettings;
use crate::meter::{self, JOBS_KEPT_FOR};
use crate::problem::Problem;
use crate::proxy::{self, OnFailure};
use crate::wires::{self, Wire};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// How long journal segments are kept behind a shared ledger where nothing else is said.
const POSTGRES_KEEP_HOURS: u64 = 24;

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the proxy listens and what it bears.
    pub proxy: proxy::Settings,
    /// The upstreams, in the file's order.
    pub upstreams: Vec<proxy::upstream::Settings>,
    /// The admin listener.
    pub admin: Admin,
    /// How tokens are counted that a provider does not report.
    pub counting: meter::Settings,
    /// Where records are kept.
    pub ledger: Ledger,
    /// How months are cut.
    pub report: Report,
    /// Who may call, and what is believed.
    pub attribution: attribution::Settings,
    /// Departments, with their names.
    pub departments: Vec<Department>,
    /// Teams, with their names.
    pub teams: Vec<Team>,
}

/// The admin listener: metrics, health, pages, API.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What callers must present; always there on an address that others can reach.
    pub token: Option<SecretString>,
}

/// Where records are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ledger {
    /// Holds the journal and the embedded ledger.
    pub directory: PathBuf,
    /// What a record survives.
    pub durability: Durability,
    /// Beyond this the journal takes no call until the ledger has taken records.
    pub journal_bytes_max: u64,
    /// How long records are kept, beside their sums; `None`: for ever.
    pub keep_records: Option<SignedDuration>,
    /// This process's name in records; `None`: one is made and kept in the directory.
    pub node: Option<NodeId>,
    /// A journal file that would grow past this is followed by the next.
    pub journal_segment_bytes_max: u64,
    /// The shared ledger; `None`: the embedded one, or nobody wants the ledger.
    pub postgres: Option<Arc<PostgresSettings>>,
    /// How long a journal segment is kept after the ledger has it.
    pub journal_keep: Duration,
}

/// The shortest time that records can be kept: for so long they say which background jobs were counted.
const KEEP_DAYS_MIN: u64 = JOBS_KEPT_FOR.as_hours().unsigned_abs() / 24;

/// What a record survives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// The death of the process at any instant.
    #[default]
    Process,
    /// Also that of the machine.
    Power,
}

/// How months are cut.
#[derive(Clone, Debug)]
pub struct Report {
    /// The time zone's IANA name.
    pub timezone: String,
    /// The time zone.
    pub zone: TimeZone,
}

/// A department, as finance knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Department {
    /// Its id: what records hold.
    pub id: DepartmentId,
    /// The name that people use. Checked and kept; reports show ids.
    pub name: Option<String>,
    /// Finance's number of it. Checked and kept; reports show ids.
    pub cost_center: Option<String>,
}

/// A team of a department.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Team {
    /// Its id: what records hold.
    pub id: TeamId,
    /// The name that people use. Checked and kept; reports show ids.
    pub name: Option<String>,
    /// The department that it belongs to, if any.
    pub department: Option<DepartmentId>,
}

/// The environment, as far as config asks for it.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment; a variable that is not UTF-8 counts as not set.
#[expect(clippy::disallowed_methods, reason = "only config reads the environment, and this is where")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Which secrets a command needs, and which files beside them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// All of them, and tokenizers: it serves.
    All,
    /// That of the ledger, and tokenizers: it counts.
    ToCount,
    /// That of the ledger: it reads.
    OfLedger,
    /// None.
    None,
}

/// The configuration in the file at `path`; the built-in defaults without one. The secrets that are `wanted` are read
/// and must be there; the others are left out. `Err` holds every problem, in the file's order.
pub fn load(path: Option<&Path>, env: Env<'_>, wanted: Wanted) -> Result<Config, Vec<Problem>> {
    let bytes = match path {
        None => Vec::new(),
        Some(path) => std::fs::read(path).map_err(|error| {
            vec![Problem {
                file: Some(path.to_owned()),
                line: None,
                key: String::new(),
                what: format!("cannot be read: {error}"),
                help: "give the path of a TOML file with --config, or none to run with the defaults".to_owned(),
            }]
        })?,
    };
    read(&bytes, path, env, wanted, wires::REGISTRY)
}

/// The configuration written in `bytes`.
fn read(
    bytes: &[u8],
    file: Option<&Path>,
    env: Env<'_>,
    wanted: Wanted,
    wires: &[&'static dyn Wire],
) -> Result<Config, Vec<Problem>> {
    let text = reader::utf8(bytes, file)?;
    let root = reader::parse(text, file)?;
    let document = Document::new(text, file);
    let config = read_document(&document, &Section::root(&document, &root), env, wanted, wires);
    let problems = document.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        Some(_) | None => Err(problems),
    }
}

/// `None` only beside a problem.
fn read_document(
    document: &Document<'_>,
    root: &Section<'_>,
    env: Env<'_>,
    wanted: Wanted,
    wires: &[&'static dyn Wire],
) -> Option<Config> {
    let secrets = Secrets { env, resolve: wanted == Wanted::All };
    let listen = root.section("listen");
    let proxy_listen = listen.address("proxy").unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    let admin_listen = listen.address("admin").unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)));
    if overlap(proxy_listen, admin_listen) {
        listen.problem(
            "admin",
            format!("is {admin_listen}, which the proxy listens on ({proxy_listen})"),
            "give the admin listener a port of its own",
        );
    }
    listen.finish();

    let admin = root.section("admin");
    let (token, has_token) = secrets.read(&admin, "token_env", "token_file");
    if !has_token && !is_loopback(admin_listen) {
        listen.problem(
            "admin",
            format!("is {admin_listen}, which others can reach, and no token is asked of them"),
            "set `admin.token_env` or `admin.token_file`, or listen on 127.0.0.1",
        );
    }
    admin.finish();

    let section = root.section("ledger");
    let on_failure = section.choice("on_failure", &[("refuse", OnFailure::Refuse), ("pass", OnFailure::Pass)]);
    let ledger = read_ledger(&section, Secrets { env, resolve: wanted != Wanted::None });
    let proxy = read_proxy(&root.section("proxy"), proxy_listen, on_failure.unwrap_or_default());
    let report = read_report(&root.section("report"));
    let upstreams = upstreams::read(root, secrets, wires);
    let counting = counting::read(root, &upstreams, matches!(wanted, Wanted::All | Wanted::ToCount));
    let payers = payers::read(root, is_loopback(proxy_listen));
    root.finish();
    document.is_fine().then_some(Config {
        proxy,
        upstreams,
        admin: Admin { listen: admin_listen, token },
        counting,
        ledger,
        report: report?,
        attribution: payers.attribution,
        departments: payers.departments,
        teams: payers.teams,
    })
}

fn read_proxy(section: &Section<'_>, listen: SocketAddr, on_failure: OnFailure) -> proxy::Settings {
    let settings = proxy::Settings {
        listen,
        body_view_bytes_max: section.size("body_view_bytes_max", 4 * MIB, 64 * KIB..=256 * MIB),
        body_bytes_max: section.whole("body_bytes_max", 10 * 1024 * MIB, KIB..=1024 * 1024 * MIB),
        body_idle_timeout: section.secs("body_idle_timeout_secs", 60, 1..=3_600),
        header_read_timeout: section.secs("header_read_timeout_secs", 120, 1..=3_600),
        header_bytes_max: section.size("header_bytes_max", 64 * KIB, 8 * KIB..=MIB),
        connections_max: section.size("connections_max", 10_000, 1..=1_000_000),
        drain_timeout: section.secs("drain_timeout_secs", 600, 0..=3_600),
        finish_calls_max: section.size("finish_calls_max", 256, 0..=100_000),
        finish_timeout: section.secs("finish_timeout_secs", 60, 1..=3_600),
        finish_bytes_max: section.whole("finish_bytes_max", 64 * MIB, 64 * KIB..=4096 * MIB),
        on_failure,
    };
    section.finish();
    settings
}

fn read_ledger(section: &Section<'_>, secrets: Secrets<'_>) -> Ledger {
    let directory = section.text("directory").unwrap_or("data");
    if directory.is_empty() || directory.contains('\0') {
        section.problem("directory", "is not a path", "name a directory; the default is \"data\"");
    }
    let hours = if section.has("postgres_url_env") { POSTGRES_KEEP_HOURS } else { 0 };
    let ledger = Ledger {
        directory: PathBuf::from(directory),
        durability: section
            .choice("durability", &[("process", Durability::Process), ("power", Durability::Power)])
            .unwrap_or_default(),
        journal_bytes_max: section.whole("journal_bytes_max", journal::BYTES_MAX, journal::BYTES_MAX_LEAST..=1 << 50),
        keep_records: section
            .whole_if_set("keep_records_days", KEEP_DAYS_MIN..=36_500, "without it they are kept for ever")
            .map(|days| SignedDuration::from_hours(days.cast_signed().saturating_mul(24))),
        node: section.id("node", NodeId::parse),
        journal_segment_bytes_max: section.whole(
            "journal_segment_bytes_max",
            journal::SEGMENT_BYTES_MAX,
            4 * KIB..=1024 * MIB,
        ),
        postgres: read_postgres(section, secrets),
        journal_keep: Duration::from_hours(section.whole("journal_keep_hours", hours, 0..=8_760)),
    };
    section.finish();
    ledger
}

/// `None` where none is named, where it is not wanted, and beside a problem.
fn read_postgres(section: &Section<'_>, secrets: Secrets<'_>) -> Option<Arc<PostgresSettings>> {
    let (key, ca_key) = ("postgres_url_env", "postgres_ca_file");
    let ca_file = section.text(ca_key).map(PathBuf::from);
    if let Some(file) = ca_file.as_ref().filter(|file| secrets.resolve && !upstreams::holds_certificate(file)) {
        section.problem(
            ca_key,
            format!("names {}, from which no certificate can be read", file.display()),
            "name a PEM file of certificate authorities, readable by this process",
        );
    }
    if ca_file.is_some() && !section.has(key) {
        section.problem(
            ca_key,
            "is given without `postgres_url_env`",
            "name the variable that holds the URL, or remove it",
        );
    }
    let url = secrets.read_env(section, key)?;
    match PostgresSettings::new(url.expose_secret(), ca_file) {
        Ok(settings) => Some(Arc::new(settings)),
        Err(error) => {
            let variable = section.text(key).unwrap_or_default();
            let help = "write postgres://user:password@host:5432/database?sslmode=verify-full";
            section.problem(key, format!("names the variable `{variable}`, whose URL {error}"), help);
            None
        }
    }
}

/// `None` only beside a problem.
fn read_report(section: &Section<'_>) -> Option<Report> {
    let name = section.text("timezone").unwrap_or("UTC");
    let zone = if name == "UTC" { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() };
    if zone.is_none() {
        section.problem(
            "timezone",
            format!("is {name:?}, which is no time zone known here"),
            "use an IANA name such as \"UTC\", \"Asia/Shanghai\" or \"America/New_York\"",
        );
    }
    section.finish();
    Some(Report { timezone: name.to_owned(), zone: zone? })
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether both cannot listen. Port 0 is whichever is free.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (first, second) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port()
        && one.port() != 0
        && (first == second || first.is_unspecified() || second.is_unspecified())
}

#[cfg(test)]
mod tests;
