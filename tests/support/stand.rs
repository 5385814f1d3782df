//! The stand: tokenmeter's real binary between a client and the fake upstream, in a folder of its own.
//!
//! Everything is looked at as a user would: HTTP at the proxy and the admin, commands for records and reports.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;

use crate::asks::Ask;
use crate::fake_upstream::FakeUpstream;

/// How long something that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Departments and teams that stories attribute calls to.
pub(crate) const PAYERS: &str = r#"
[[department]]
id = "customer-service"
[[department]]
id = "research"
[[team]]
id = "support-bot"
department = "customer-service"
[[team]]
id = "lab"
department = "research"
"#;

/// The credential that the stand's upstreams have of their own.
pub(crate) const CREDENTIAL: &str = "sk-canary-of-the-upstream";

/// tokenmeter, the upstream behind it, and the folder of both.
pub(crate) struct Stand {
    pub(crate) fake: FakeUpstream,
    directory: TempDir,
    server: Option<Server>,
    /// Variables of its commands, beside its own.
    environment: Vec<(&'static str, String)>,
}

/// A running `tokenmeter serve`.
struct Server {
    child: Child,
    proxy: String,
    admin: String,
}

/// An answer read to its end, or as far as it came.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body came to its end.
    pub(crate) is_whole: bool,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn record_id(&self) -> String {
        self.headers["x-tokenmeter-record"].to_str().unwrap().to_owned()
    }
}

/// The upstreams of a stand, at `base`: three with a credential of their own, and `keyless`. Ends within the last one's
/// table, so that keys can be added to it.
pub(crate) fn upstreams(base: &str) -> String {
    let keyless = format!("[[upstream]]\nname = \"keyless\"\nwire = \"openai\"\nbase_url = \"{base}\"\n");
    let rest = ["openai", "anthropic", "gemini"]
        .map(|name| {
            format!("[[upstream]]\nname = \"{name}\"\nwire = \"{name}\"\nprovider = \"{name}\"\nbase_url = \"{base}\"\napi_key_env = \"TOKENMETER_STAND_KEY\"\n")
        })
        .join("\n");
    format!("{keyless}\n{rest}")
}

impl Stand {
    /// A stand with upstreams `openai`, `anthropic`, `gemini` and the payers of [`PAYERS`].
    pub(crate) fn start() -> Self {
        Self::with(|base| format!("{}{PAYERS}", upstreams(base)))
    }

    /// A stand with the configuration that `config` makes for the fake upstream's base URL; where tokenmeter listens
    /// and keeps its data is added.
    pub(crate) fn with(config: impl FnOnce(&str) -> String) -> Self {
        let mut stand = Self::stopped(config);
        stand.serve();
        stand
    }

    /// The same, not yet serving.
    pub(crate) fn stopped(config: impl FnOnce(&str) -> String) -> Self {
        let fake = FakeUpstream::start().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let text = config(&fake.base_url());
        let data = directory.path().join("data");
        let mut whole = String::new();
        if !text.contains("[listen]") {
            whole.push_str("[listen]\nproxy = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n");
        }
        if !text.contains("[ledger]") {
            whole.push_str("[ledger]\n");
        }
        whole.push_str(&text);
        let whole = whole.replace("[ledger]", &format!("[ledger]\ndirectory = {:?}", data.display().to_string()));
        std::fs::write(directory.path().join("tokenmeter.toml"), whole).unwrap();
        Self { fake, directory, server: None, environment: Vec::new() }
    }

    /// The folder of journal and ledger.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A folder for whatever else a story writes.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A `tokenmeter` command with this stand's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--config").arg(self.directory.path().join("tokenmeter.toml")).args(arguments);
        command.env("TOKENMETER_STAND_KEY", CREDENTIAL).current_dir(self.directory.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Sets a variable for its commands from now on.
    pub(crate) fn set(&mut self, variable: &'static str, value: String) {
        self.environment.retain(|(name, _)| *name != variable);
        self.environment.push((variable, value));
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn serve(&mut self) {
        let command = self.command(&["serve", "--log", "debug"]);
        self.serve_as(command);
    }

    /// Starts the server by `command`, which ends in `tokenmeter serve`.
    pub(crate) fn serve_as(&mut self, mut command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |label: &str| loop {
            let line = lines.next().unwrap_or_else(|| panic!("no {label} address:\n{}", self.log())).unwrap();
            if let Some(rest) = line.trim().strip_prefix(label) {
                return rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        let (proxy, admin) = (address("proxy"), address("admin"));
        std::thread::spawn(move || {
            // The rest of the greeting is read so that the pipe stays open and empty.
            for line in lines {
                drop(line);
            }
        });
        self.server = Some(Server { child, proxy, admin });
    }

    /// Starts a server, and kills it after `life`, whether it is ready by then or not.
    pub(crate) fn serve_shortly(&self, life: Duration) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command(&["serve"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        std::thread::sleep(life);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// What the server logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the stand is serving")
    }

    /// The proxy's base URL.
    pub(crate) fn proxy(&self) -> &str {
        &self.server().proxy
    }

    /// The admin's base URL.
    pub(crate) fn admin(&self) -> &str {
        &self.server().admin
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.server().child.id()
    }

    /// Kills the server as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }

    /// Sends the server SIGTERM.
    pub(crate) fn terminate(&self) {
        assert!(Command::new("kill").arg(self.pid().to_string()).status().unwrap().success());
    }

    /// Waits for the server to end by itself; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut server = self.server.take().unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = server.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE * 2, "the server does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a `tokenmeter` command and returns what it printed; it must succeed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{arguments:?}: {status}\n{stderr}");
        String::from_utf8(stdout).unwrap()
    }

    /// Every record, in the ledger's order.
    pub(crate) fn records(&self) -> Vec<Value> {
        self.run(&["records", "--format", "jsonl"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every record once there are `count`: those counted locally follow their answer within the second.
    pub(crate) fn records_when(&self, count: usize) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let records = self.records();
            if records.len() >= count || begun.elapsed() > PATIENCE {
                assert_eq!(records.len(), count, "{records:#?}\n{}", self.log());
                return records;
            }
        }
    }

    /// The one record there is, once it is there.
    pub(crate) fn only_record(&self) -> Value {
        self.records_when(1).remove(0)
    }

    /// The report as JSON.
    pub(crate) fn report(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = ["report", "--format", "json"].iter().chain(arguments).copied().collect();
        serde_json::from_str(&self.run(&arguments)).unwrap()
    }

    /// A virtual key of `team`, once the server knows it. Asked at the upstream `keyless`, which refuses every virtual
    /// key, but one that is unknown for another reason.
    pub(crate) async fn key(&self, team: &str) -> String {
        let key = self.run(&["keys", "new", "--team", team]).trim().to_owned();
        let begun = Instant::now();
        loop {
            let probe = self.call("/keyless/v1/models").method(Method::GET).header("x-api-key", &key);
            if probe.send().await.text().contains("no_credential") {
                return key;
            }
            assert!(begun.elapsed() < PATIENCE, "the server does not learn of a new key");
        }
    }

    /// The whole answer at `url`.
    pub(crate) async fn get(&self, url: &str) -> Reply {
        read(http().request(Request::get(url).body(Full::default()).unwrap()).await.unwrap()).await
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        self.get(&format!("{}/metrics", self.admin())).await.text()
    }

    /// The sum of a metric's samples whose labels contain every one of `labels` (`kind="output"`).
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum_of(&self.metrics().await, name, labels)
    }

    /// Waits until a metric is `value`.
    pub(crate) async fn metric_becomes(&self, name: &str, labels: &[&str], value: f64) {
        let begun = Instant::now();
        loop {
            let now = self.metric(name, labels).await;
            if (now - value).abs() < f64::EPSILON {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{name}{labels:?} is {now}, not {value}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A request to the proxy, to be completed and sent.
    pub(crate) fn call(&self, path: &str) -> Call {
        let url = format!("{}{path}", self.proxy());
        Call { url, method: Method::POST, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// The request of `ask`, to be sent.
    pub(crate) fn ask(&self, ask: &Ask) -> Call {
        self.call(ask.path).json(&ask.body)
    }

    /// The request of `ask` to the fake upstream itself: what tokenmeter's answer is held against.
    pub(crate) fn ask_directly(&self, ask: &Ask) -> Call {
        let url = format!("{}{}", self.fake.base_url(), ask.provider_path());
        Call { url, method: Method::POST, headers: HeaderMap::new(), body: Bytes::new() }.json(&ask.body)
    }

    /// Waits until the server has let go of every client that hung up.
    pub(crate) async fn noticed_hang_up(&self) {
        const LISTEN: &str = "0A";
        const TIME_WAIT: &str = "06";
        let port = self.proxy().rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let ends = format!(":{port:04X}");
        let begun = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let mut rows = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            if !rows.any(|row| row[1].ends_with(&ends) && row[3] != LISTEN && row[3] != TIME_WAIT) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "a connection stays");
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.child.kill());
            drop(server.child.wait());
        }
        if std::thread::panicking() {
            eprintln!("— the server's log —\n{}", self.log());
        }
    }
}

/// The sum of a metric's samples in the text of `/metrics`.
pub(crate) fn sum_of(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// A request on its way to the proxy.
pub(crate) struct Call {
    url: String,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    pub(crate) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    /// How the fake upstream is to answer: see its `script`.
    pub(crate) fn fake(self, script: &str) -> Self {
        self.header("x-fake", script)
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        self.body = Bytes::from(body.to_string());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn request(self) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(self.method).uri(self.url).body(Full::new(self.body)).unwrap();
        *request.headers_mut() = self.headers;
        request
    }

    /// Sends it on a connection of its own, and returns the answer as it comes. Dropping the answer hangs up.
    pub(crate) async fn begin(self) -> http::Response<Incoming> {
        http().request(self.request()).await.unwrap()
    }

    /// Sends it over HTTP/2 without TLS, known beforehand.
    pub(crate) async fn begin_http2(self) -> http::Response<Incoming> {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        client.request(self.request()).await.unwrap()
    }

    /// Sends it and reads the whole answer.
    pub(crate) async fn send(self) -> Reply {
        read(self.begin().await).await
    }
}

/// The binary of this build, or the one that `TOKENMETER_TEST_BINARY` names, such as a release build.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("TOKENMETER_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_tokenmeter").into()).into()
}

/// A client without a pool to speak of: a dropped answer closes its connection.
pub(crate) fn http() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http()
}

/// A client that keeps its connections, as applications do.
pub(crate) fn http_with_pool() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Reads an answer to its end, or as far as it comes.
pub(crate) async fn read(response: http::Response<Incoming>) -> Reply {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let is_whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
        }
    };
    Reply { status: parts.status, headers: parts.headers, body: bytes.into(), is_whole }
}

/// Reads an answer until what came of it is `enough`. What is not passed on in time fails by patience.
pub(crate) async fn read_until(response: &mut http::Response<Incoming>, enough: impl Fn(&str) -> bool) -> String {
    let mut so_far = String::new();
    let reading = async {
        while !enough(&so_far) {
            let frame = response.body_mut().frame().await.expect("the answer goes on").unwrap();
            so_far.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    };
    let is_in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
    assert!(is_in_time, "it does not come; so far: {so_far:?}");
    so_far
}

/// The data of each event of a stream that is JSON.
pub(crate) fn events(stream: &str) -> Vec<Value> {
    stream
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}
