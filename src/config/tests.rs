use std::collections::{BTreeSet, HashMap};

use http::Method;
use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::operation::Operation;
use crate::proxy::upstream::{Base, OnClientClose};
use crate::wires::prompt::Prompt;
use crate::wires::{CredentialHeader, Exchange, Observer, REGISTRY};

const REFERENCE: &str = include_str!("../../config/tokenmeter.toml");

/// A wire that has a name and nothing else.
#[derive(Debug)]
struct Named(&'static str);

impl Wire for Named {
    fn name(&self) -> &'static str {
        self.0
    }
    fn recognise<'a>(&self, _: &Method, _: &'a str) -> Option<Exchange<'a>> {
        None
    }
    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }
    fn error_body(&self, _: u16, _: &str, _: &str) -> String {
        String::new()
    }
    fn members(&self) -> &'static [&'static str] {
        &[]
    }
    fn takes_stream_options(&self) -> bool {
        self.0 == "openai"
    }
    fn observer(&self, _: Operation, _: &str) -> Box<dyn Observer> {
        unreachable!()
    }
    fn prompt(&self, _: Operation, _: &[u8]) -> Option<Prompt> {
        None
    }
}

const WIRES: &[&dyn Wire] = &[&Named("openai"), &Named("anthropic"), &Named("gemini")];

fn env(name: &str) -> Option<String> {
    (name == "OPENAI_API_KEY").then(|| "sk-configured\n".to_owned())
}

fn config(bytes: impl AsRef<[u8]>) -> Result<Config, Vec<Problem>> {
    read(bytes.as_ref(), Some(Path::new("t.toml")), &env, Wanted::All, WIRES)
}

fn problems(text: &str) -> String {
    let problems = config(text).map(|_| ()).expect_err("the text has problems");
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

const UPSTREAM: &str = "[[upstream]]\nname = \"a\"\nwire = \"openai\"\nbase_url = \"https://api.openai.com\"\n";

#[test]
fn without_a_file_everything_has_its_default() {
    let config = read(b"", None, &env, Wanted::All, REGISTRY).unwrap();
    assert_eq!(config.proxy.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8081");
    assert!(config.attribution.trust_headers);
    assert_eq!(config.proxy.body_view_bytes_max, 4 << 20);
    let shown: Vec<String> = config
        .upstreams
        .iter()
        .map(|upstream| {
            assert!(upstream.credential.is_none());
            let adds = if upstream.adds_stream_usage { " +usage" } else { "" };
            format!("{} {} {}{adds}", upstream.name, upstream.wire.name(), upstream.provider)
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    openai openai openai +usage
    anthropic anthropic anthropic +usage
    gemini gemini gemini +usage
    mistral openai mistral
    deepseek openai deepseek
    groq openai groq
    xai openai xai +usage
    openrouter openai openrouter
    together openai together
    perplexity openai perplexity
    cohere cohere cohere +usage
    dashscope openai dashscope +usage
    zhipu openai zhipu
    moonshot openai moonshot +usage
    cerebras openai cerebras
    fireworks openai fireworks +usage
    huggingface openai huggingface
    zai openai zai
    voyage openai voyage +usage
    vertex vertex vertex +usage
    ollama ollama ollama +usage
    demo openai demo +usage
    "#);
}

#[test]
fn every_mistake_of_a_file_is_told_at_once_where_it_stands() {
    insta::assert_snapshot!(problems(r#"
[listen]
proxy = "127.0.0.1:8080"
admin = "0.0.0.0:8081"
prxy = "x"

[ledger]
durability = "forever"
keep_records_days = 30

[report]
timezone = "Mars/Olympus"

[[upstream]]
name = "v1"
wire = "opnai"
base_url = "ftp://example.com"
api_key = "sk-secret"
head_timeout_secs = 0

[[upstream]]
name = "b"
wire = "openai"
api_key_env = "NOT_THERE"
unmetered = true

[[department]]
id = "sales"

[[team]]
id = "bad id"
department = "sles"

[[key]]
team = "bot"
sha256 = "abc"
"#), @r#"
    t.toml:4: `listen.admin` is 0.0.0.0:8081, which others can reach, and no token is asked of them
        set `admin.token_env` or `admin.token_file`, or listen on 127.0.0.1
    t.toml:5: `listen.prxy` is unknown
        known: admin, proxy
    t.toml:8: `ledger.durability` is "forever"
        known: process, power
    t.toml:9: `ledger.keep_records_days` is 30
        must be from 60 to 36500; without it they are kept for ever
    t.toml:12: `report.timezone` is "Mars/Olympus", which is no time zone known here
        use an IANA name such as "UTC", "Asia/Shanghai" or "America/New_York"
    t.toml:15: `upstream.name` is "v1", with which API paths begin
        choose another name; reserved: api, model, v1, v1beta, v2
    t.toml:16: `upstream.wire` is "opnai"
        known: openai, anthropic, gemini
    t.toml:17: `upstream.base_url` is "ftp://example.com", which does not begin with http:// or https:// and a host
        write scheme, host and perhaps a path: "https://api.openai.com"
    t.toml:18: `upstream.api_key` is unknown
        a secret is not written here; name where it is with `api_key_env` or `api_key_file`
    t.toml:19: `upstream.head_timeout_secs` is 0
        must be from 1 to 86400; the default is 600
    t.toml:21: `upstream.base_url` is missing
        write the provider's address, such as "https://api.openai.com"
    t.toml:24: `upstream.api_key_env` names the variable `NOT_THERE`, which is not set
        set the variable for this process, or name the one that holds the secret
    t.toml:25: `upstream.unmetered` is true
        must be a text in quotes
    t.toml:31: `team.id` is "bad id", which is no id
        must be 1 to 64 characters of a-z, A-Z, 0-9, `.`, `_`, `-`, and start with a letter or digit
    t.toml:32: `team.department` is "sles", which is no configured department
        add a `[[department]]` with that id; known: sales
    t.toml:35: `key.team` is "bot", which is no configured team
        add a `[[team]]` with that id; known: 
    t.toml:36: `key.sha256` is not 64 hexadecimal digits
        make a key with `tokenmeter keys new`, or write the SHA-256 of the whole key as 64 hexadecimal digits
    "#);
}

#[test]
fn what_cannot_be_recorded_is_refused_unless_told_to_pass() {
    let on_failure = |text: &str| config(format!("{text}{UPSTREAM}")).unwrap().proxy.on_failure;
    assert_eq!(on_failure(""), OnFailure::Refuse);
    assert_eq!(on_failure("[ledger]\non_failure = \"refuse\"\n"), OnFailure::Refuse);
    assert_eq!(on_failure("[ledger]\non_failure = \"pass\"\n"), OnFailure::Pass);
    insta::assert_snapshot!(problems(&format!("[ledger]\non_failure = \"ignore\"\n{UPSTREAM}")), @r#"
    t.toml:2: `ledger.on_failure` is "ignore"
        known: refuse, pass
    "#);
}

#[test]
fn a_tokenizer_of_a_file_counts_for_whom_it_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    std::fs::write(&file, crate::tokenizer::WORDS).unwrap();
    let text =
        format!("[counting]\ntext_bytes_max = 65536\n[[tokenizer]]\nfile = {file:?}\nupstreams = [\"a\"]\n{UPSTREAM}");
    let tokenizers = config(&text).unwrap().counting.tokenizers;
    assert_eq!(tokenizers.counter("a", "m").count("hello world").tokens, 2);
    assert_eq!(tokenizers.counter("b", "m").name(), "o200k");
    let unread = read(text.as_bytes(), None, &env, Wanted::OfLedger, WIRES).unwrap().counting.tokenizers;
    assert_eq!(unread.counter("a", "m").name(), "o200k", "a command that does not count does not read it");
}

#[test]
fn what_is_wrong_with_a_tokenizer_is_told() {
    insta::assert_snapshot!(problems(&format!(r#"
[counting]
threads = 0
queue_bytes_max = 1
preload = "yes"

[[tokenizer]]
file = "nowhere/tokenizer.json"
models = ["llama-3*"]

[[tokenizer]]
file = "Cargo.toml"
upstreams = ["a", "b"]

[[tokenizer]]
models = [1]

[[tokenizer]]
file = "Cargo.toml"
{UPSTREAM}"#)), @r#"
    t.toml:3: `counting.threads` is 0
        must be from 1 to 64; the default is 1
    t.toml:4: `counting.queue_bytes_max` is 1
        must be from 1048576 to 17179869184; the default is 67108864
    t.toml:5: `counting.preload` is a text
        must be true or false
    t.toml:8: `tokenizer.file` names nowhere/tokenizer.json, which cannot be read: No such file or directory (os error 2)
        name a tokenizer.json in the format of Hugging Face's library, readable by this process
    t.toml:12: `tokenizer.file` names Cargo.toml, which is no tokenizer: invalid type: sequence, expected struct Tokenizer at line 1 column 1
        name a tokenizer.json in the format of Hugging Face's library, readable by this process
    t.toml:13: `tokenizer.upstreams` names "b", which is no configured upstream
        known: a
    t.toml:15: `tokenizer.file` is missing
        name the tokenizer.json that comes with the model's weights
    t.toml:16: `tokenizer.models` is a list
        must be a list of texts in quotes
    t.toml:19: `tokenizer.file` is given for nobody
        name `upstreams`, or `models` such as ["llama-3*"], or both
    t.toml:19: `tokenizer.file` names Cargo.toml, which is no tokenizer: invalid type: sequence, expected struct Tokenizer at line 1 column 1
        name a tokenizer.json in the format of Hugging Face's library, readable by this process
    "#);
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    insta::assert_snapshot!(problems("[listen]\nproxy = \n[[upstream]\nname = 'a"), @r#"
    t.toml:2: is not TOML: string values must be quoted, expected literal string
        correct the line; config/tokenmeter.toml shows every key as it is written
    t.toml:3: is not TOML: unclosed array table, expected `]`
        correct the line; config/tokenmeter.toml shows every key as it is written
    "#);
    assert_eq!(config(b"[listen]\n\xff").unwrap_err()[0].line, Some(2));
}

#[test]
fn the_reference_documents_every_key_and_no_other() {
    let root = reader::parse(REFERENCE, None).unwrap();
    let document = Document::new(REFERENCE, None);
    let root = Section::root(&document, &root);
    read_document(&document, &root, &env, Wanted::None, WIRES).unwrap();
    // A table that may come often or not at all has the keys that it would ask for.
    payers::key(&Section::empty(&document, "key"), None, &mut HashMap::default());
    counting::tokenizer(&Section::empty(&document, "tokenizer"), &[], false);
    let mut section = String::new();
    let mut written = BTreeSet::new();
    for line in REFERENCE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').map(|line| line.trim_matches(['[', ']'])) {
            section = name.to_owned();
            written.insert(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            written.insert(format!("{section}.{key}"));
        }
    }
    assert_eq!(written, document.asked());
}

#[test]
fn the_reference_has_every_default() {
    let reference = config(REFERENCE).unwrap();
    let default = config("").unwrap();
    assert_eq!(format!("{:?}", reference.proxy), format!("{:?}", default.proxy));
    assert_eq!(reference.ledger, default.ledger);
    assert_eq!(format!("{:?}", reference.counting), format!("{:?}", default.counting));
    assert_eq!(reference.report.timezone, default.report.timezone);
    assert_eq!(format!("{:?}", reference.admin), format!("{:?}", default.admin));
    assert_eq!(reference.attribution.trust_headers, default.attribution.trust_headers);
    assert_eq!(reference.attribution.on_unknown, default.attribution.on_unknown);
    for upstream in &reference.upstreams {
        let same = default.upstreams.iter().find(|known| known.name == upstream.name).unwrap();
        assert_eq!(format!("{upstream:?}"), format!("{same:?}"));
    }
    assert_eq!(reference.upstreams.len(), 3);
}

#[test]
fn an_upstream_is_what_its_table_says() {
    let text =
        UPSTREAM.replace("https://api.openai.com", "http://10.0.0.1:8000/base/") + "api_key_env = \"OPENAI_API_KEY\"";
    let config = config(text + "\non_client_close = \"finish\"").unwrap();
    let [upstream] = config.upstreams.as_slice() else { panic!("one upstream") };
    assert_eq!(upstream.credential.as_ref().unwrap().expose_secret(), "sk-configured");
    assert_eq!(upstream.provider.as_str(), "a");
    assert_eq!(upstream.on_client_close, OnClientClose::Finish);
    assert!(upstream.adds_stream_usage);
    let Base::Url { scheme, authority, path } = &upstream.base else { panic!("a URL") };
    assert_eq!((scheme.as_str(), authority.as_str(), path.as_str()), ("http", "10.0.0.1:8000", "/base"));
    assert!(!format!("{config:?}").contains("sk-configured"));
}

#[test]
fn a_provider_is_known_by_its_host() {
    let provider = |url: &str| {
        let text = UPSTREAM.replace("https://api.openai.com", url);
        config(text).unwrap().upstreams[0].provider.to_string()
    };
    assert_eq!(provider("https://api.groq.com"), "groq");
    assert_eq!(provider("https://API.X.AI"), "xai");
    assert_eq!(provider("https://acme.openai.azure.com"), "azure");
    assert_eq!(provider("https://europe-west4-aiplatform.googleapis.com"), "vertex");
    assert_eq!(provider("https://notapi.openai.com.evil.example"), "a");
    assert_eq!(provider("http://localhost:8000"), "a");
}

#[test]
fn a_base_url_is_scheme_host_and_path() {
    for bad in [
        "",
        "api.openai.com",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x?y=1",
        "https://x/#y",
        "https://x:99999",
        "https://x:",
        "not a url",
        "/v1",
    ] {
        let text = UPSTREAM.replace("https://api.openai.com", bad);
        let problems = config(text).map(|_| ()).expect_err(bad);
        assert!(problems.iter().all(|problem| problem.key == "upstream.base_url"), "{bad}: {problems:?}");
    }
}

#[test]
fn what_others_can_reach_is_guarded() {
    let open = "[listen]\nadmin = \"0.0.0.0:8081\"\n";
    assert!(problems(open).contains("admin.token_env"));
    assert!(config(format!("{open}[admin]\ntoken_env = \"OPENAI_API_KEY\"")).unwrap().admin.token.is_some());
    let reachable = config("[listen]\nproxy = \"0.0.0.0:8080\"").unwrap();
    assert!(!reachable.attribution.trust_headers);
    for same in ["127.0.0.1:8080", "0.0.0.0:8080", "[::]:8080"] {
        assert!(problems(&format!("[listen]\nadmin = \"{same}\"")).contains("which the proxy listens on"), "{same}");
    }
    assert!(config("[listen]\nadmin = \"127.0.0.1:0\"\nproxy = \"127.0.0.1:0\"").is_ok());
}

#[test]
fn secrets_are_read_only_when_they_are_wanted() {
    let text = format!("{UPSTREAM}api_key_env = \"NOT_THERE\"\nproxy_url_file = \"/nowhere/at/all\"");
    let unwanted = read(text.as_bytes(), None, &env, Wanted::None, WIRES);
    assert!(unwanted.unwrap().upstreams[0].credential.is_none());
    let shown = problems(&text);
    assert!(shown.contains("`NOT_THERE`, which is not set") && shown.contains("/nowhere/at/all"), "{shown}");
    let twice = format!("{UPSTREAM}api_key_env = \"OPENAI_API_KEY\"\napi_key_file = \"x\"");
    assert!(problems(&twice).contains("is given beside"));
    let open = format!("{UPSTREAM}proxy_url = \"http://user:hunter2@proxy:3128\"");
    assert!(problems(&open).contains("proxy_url_env") && !problems(&open).contains("hunter2"));
}

#[test]
fn payers_refer_to_each_other() {
    let digest = "ab".repeat(32);
    let text = format!(
        "[[department]]\nid = \"d\"\n[[team]]\nid = \"t\"\ndepartment = \"d\"\n[[key]]\nteam = \"t\"\nsha256 = \"{digest}\""
    );
    let read = config(&text).unwrap();
    assert_eq!(read.attribution.teams[0].department.as_str(), "d");
    assert_eq!(read.attribution.keys[0].sha256, [0xab; 32]);
    assert_eq!(read.attribution.keys[0].id.as_str(), "k_abababab");
    let twice = format!("{text}\n[[key]]\nteam = \"other\"\nsha256 = \"{digest}\"\n[[team]]\nid = \"t\"");
    let shown = problems(&twice);
    assert!(shown.contains("is the key of team `t` too"), "{shown}");
    assert!(shown.contains("which is no configured team"), "{shown}");
    assert!(shown.contains("which another team has"), "{shown}");
    assert!(problems("[[team]]\nid = \"unattributed\"").contains("stands for nobody"));
    assert!(config("[[team]]\nid = \"t\"\ndepartment = \"d\"").is_ok(), "no department written: any will do");
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    DropLine(prop::sample::Index),
    SwapLines(prop::sample::Index, prop::sample::Index),
    SwapValues(prop::sample::Index, prop::sample::Index),
    Uncomment(prop::sample::Index),
    Cut(prop::sample::Index),
    Value(prop::sample::Index, &'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "1.5",
        "''",
        "true",
        "[]",
        "{}",
        "[[1]]",
        "1979-05-27",
        "'\u{0}'",
        "99999999999999999999",
        "inf",
        "{ a = 1 }",
        "0xff",
        "'客服'",
        "[{ id = 'x' }]",
    ]);
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        index().prop_map(Mutation::DropLine),
        (index(), index()).prop_map(|(one, two)| Mutation::SwapLines(one, two)),
        (index(), index()).prop_map(|(one, two)| Mutation::SwapValues(one, two)),
        index().prop_map(Mutation::Uncomment),
        index().prop_map(Mutation::Cut),
        (index(), value).prop_map(|(at, value)| Mutation::Value(at, value)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let split = |line: &[u8]| line.iter().position(|byte| *byte == b'=').map(|at| at + 1);
    match mutation {
        Mutation::Flip(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
            return;
        }
        Mutation::Cut(at) if !bytes.is_empty() => {
            bytes.truncate(at.index(bytes.len()));
            return;
        }
        Mutation::Flip(..) | Mutation::Cut(_) => return,
        Mutation::DropLine(at) => drop(lines.remove(at.index(lines.len()))),
        Mutation::SwapLines(one, two) => {
            let (one, two) = (one.index(lines.len()), two.index(lines.len()));
            lines.swap(one, two);
        }
        Mutation::Uncomment(at) => {
            let at = at.index(lines.len());
            if let Some(rest) = lines[at].strip_prefix(b"# ") {
                lines[at] = rest.to_vec();
            }
        }
        Mutation::SwapValues(one, two) => {
            let (one, two) = (one.index(lines.len()), two.index(lines.len()));
            if let (Some(cut_one), Some(cut_two)) = (split(&lines[one]), split(&lines[two]))
                && one != two
            {
                let value_one = lines[one].split_off(cut_one);
                let value_two = lines[two].split_off(cut_two);
                lines[one].extend(value_two);
                lines[two].extend(value_one);
            }
        }
        Mutation::Value(at, value) => {
            let at = at.index(lines.len());
            if let Some(cut) = split(&lines[at]) {
                lines[at].truncate(cut);
                lines[at].extend(value.as_bytes());
            }
        }
    }
    *bytes = lines.join(&b'\n');
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_read_or_told_but_never_falls_over(mutations in prop::collection::vec(mutation(), 1..6)) {
        let mut bytes = REFERENCE.as_bytes().to_vec();
        for one in &mutations {
            mutate(&mut bytes, one);
        }
        if let Err(problems) = config(&bytes) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(!problem.what.is_empty() && !problem.help.is_empty(), "{:?}", problem);
                prop_assert!(problem.line.is_some_and(|line| line >= 1), "{:?}", problem);
            }
        }
    }
}

#[test]
fn a_shared_ledger_is_named_by_its_variable_and_never_shown() {
    let environment = |name: &str| match name {
        "URL" => Some("postgres://meter:s3cret@db.example/usage".to_owned()),
        "BAD" => Some("postgres://meter:s3cret@db.example/usage?sslmode=prefer".to_owned()),
        _ => None,
    };
    let read = |text: &str, wanted| read(text.as_bytes(), Some(Path::new("t.toml")), &environment, wanted, WIRES);
    let named = format!("[ledger]\npostgres_url_env = \"URL\"\n{UPSTREAM}");
    for (wanted, is_read) in [(Wanted::All, true), (Wanted::OfLedger, true), (Wanted::None, false)] {
        let config = read(&named, wanted).unwrap();
        assert_eq!((config.ledger.postgres.is_some(), config.ledger.journal_keep.as_secs()), (is_read, 24 * 3600));
        assert!(!format!("{config:?}").contains("s3cret"));
    }
    let error = |text: &str| read(text, Wanted::All).map(|_| ()).unwrap_err()[0].to_string();
    insta::assert_snapshot!(error("[ledger]\npostgres_url_env = \"BAD\""), @r"
    t.toml:2: `ledger.postgres_url_env` names the variable `BAD`, whose URL has an sslmode that is none of disable, require and verify-full
        write postgres://user:password@host:5432/database?sslmode=verify-full
    ");
    insta::assert_snapshot!(error("[ledger]\npostgres_ca_file = \"Cargo.toml\""), @r"
    t.toml:2: `ledger.postgres_ca_file` names Cargo.toml, from which no certificate can be read
        name a PEM file of certificate authorities, readable by this process
    ");
    let unset = error("[ledger]\npostgres_url_env = \"UNSET\"");
    assert!(unset.contains("`UNSET`, which is not set"), "{unset}");
    let aged = read(&named.replace("[ledger]", "[ledger]\nkeep_records_days = 90"), Wanted::All).unwrap();
    assert_eq!(aged.ledger.keep_records, Some(SignedDuration::from_hours(90 * 24)));
}
