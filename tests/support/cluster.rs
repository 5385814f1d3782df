//! Cluster: a real PostgreSQL of a story's own, in a folder of its own, to be killed, stopped, copied and put back.
//!
//! It runs as the user `postgres` where the tests run as root, which PostgreSQL refuses to be. `tests/run` installs it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long PostgreSQL may take to start or to recover on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The running server. Dropping it kills it.
pub(crate) struct Cluster {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    postmaster: Option<Child>,
}

impl Cluster {
    /// A new one, running.
    pub(crate) fn start() -> Self {
        Self::with(|_| Vec::new())
    }

    /// A new one, running, with the `-c` options that `prepare` makes after writing to its data folder.
    pub(crate) fn with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        copy(template(), &folder.path().join("data"));
        let options = prepare(&folder.path().join("data"));
        own(folder.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut cluster = Self { folder, port, options, postmaster: None };
        cluster.restart();
        cluster.sql("postgres", "CREATE DATABASE usage");
        cluster
    }

    /// The address of its database `usage` at `port`, its own or one in front of it.
    pub(crate) fn url_at(port: u16) -> String {
        format!("postgres://tokenmeter:secret-of-the-cluster@127.0.0.1:{port}/usage")
    }

    /// The address of its database `usage`.
    pub(crate) fn url(&self) -> String {
        Self::url_at(self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it again after it was stopped or killed, and waits until it takes connections.
    pub(crate) fn restart(&mut self) {
        let begun = Instant::now();
        loop {
            let mut command = as_postgres("postgres");
            command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
            for option in ["fsync=off", "listen_addresses=127.0.0.1", "shared_buffers=32MB", "max_wal_size=256MB"] {
                command.args(["-c", option]);
            }
            for option in &self.options {
                command.args(["-c", option]);
            }
            let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
            // What the one before left behind may keep it from starting: its last processes have yet to notice.
            while child.try_wait().unwrap().is_none() {
                if self.is_ready() {
                    self.postmaster = Some(child);
                    return;
                }
                assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start:\n{}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start:\n{}", self.log());
        }
    }

    fn is_ready(&self) -> bool {
        let mut command = Command::new(program("pg_isready"));
        command.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-d", "postgres"]);
        command.status().unwrap().success()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The postmaster and every process of it.
    fn processes(&self) -> Vec<String> {
        let postmaster = self.postmaster.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
        std::iter::once(postmaster.to_string()).chain(children.split_whitespace().map(str::to_owned)).collect()
    }

    /// Sends a signal to every process of it.
    pub(crate) fn signal(&self, name: &str) {
        // One that has just ended by itself is no error.
        drop(Command::new("kill").arg(format!("-{name}")).args(self.processes()).stderr(Stdio::null()).status());
    }

    /// Kills every process of it at once.
    pub(crate) fn kill(&mut self) {
        if self.postmaster.is_some() {
            self.signal("KILL");
        }
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.wait().unwrap();
        }
    }

    /// Stops it as `pg_ctl stop -m immediate` does: without a word, to recover when it starts.
    pub(crate) fn stop_at_once(&mut self) {
        let mut postmaster = self.postmaster.take().unwrap();
        assert!(Command::new("kill").args(["-QUIT", &postmaster.id().to_string()]).status().unwrap().success());
        postmaster.wait().unwrap();
    }

    /// Copies what the stopped server has on disk to `name`.
    pub(crate) fn save(&self, name: &str) {
        assert!(self.postmaster.is_none(), "only a stopped one is whole on disk");
        copy(&self.data(), &self.folder.path().join(name));
    }

    /// Puts back what was saved as `name`.
    pub(crate) fn put_back(&self, name: &str) {
        assert!(self.postmaster.is_none(), "a running one would not notice");
        fs::remove_dir_all(self.data()).unwrap();
        fs::rename(self.folder.path().join(name), self.data()).unwrap();
    }

    /// What `sql` says in `database`, unaligned.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}\n{}", self.log()))
    }

    /// The same, or the error.
    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h"]).arg(self.folder.path());
        command.args(["-p", &self.port.to_string(), "-U", "tokenmeter", "-d", database, "-c", sql]);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of the newest PostgreSQL here.
fn program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    versions.sort();
    let newest = versions.pop().expect("PostgreSQL is missing: `tests/run` installs Debian's package `postgresql`");
    newest.join("bin").join(name)
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.trim_ascii() == b"0"
}

/// The program, as a user that PostgreSQL agrees to be.
fn as_postgres(name: &str) -> Command {
    if !is_root() {
        return Command::new(program(name));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program(name));
    command
}

/// Gives a folder to that user.
fn own(folder: &Path) {
    if is_root() {
        assert!(Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder).status().unwrap().success());
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// A data folder as `initdb` makes it, which takes a while: made once and kept between runs.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let whole = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres-template");
        if whole.exists() {
            return whole;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        own(folder.path());
        let password = folder.path().join("password");
        fs::write(&password, "secret-of-the-cluster").unwrap();
        fs::set_permissions(&password, PermissionsExt::from_mode(0o644)).unwrap();
        let data = folder.path().join("data");
        let mut command = as_postgres("initdb");
        command.arg("-D").arg(&data).arg("--pwfile").arg(&password).args(["-U", "tokenmeter", "-E", "UTF8"]);
        command.args(["--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let part = whole.with_extension(std::process::id().to_string());
        copy(&data, &part);
        // Another run of the tests may have been faster.
        if fs::rename(&part, &whole).is_err() {
            fs::remove_dir_all(&part).unwrap();
        }
        whole
    })
}
