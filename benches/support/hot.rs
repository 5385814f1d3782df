//! Hot: what every call goes through, piece by piece, for whoever measures it.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use jiff::Timestamp;
use tempfile::TempDir;
use tokenmeter::attribution::keys::{Key, KeySet};
use tokenmeter::attribution::{self, Attribution, Team, keys};
use tokenmeter::framing::Framer;
use tokenmeter::framing::json_members::Members;
use tokenmeter::ids::{DepartmentId, NodeId, RecordId, TeamId};
use tokenmeter::journal::{Appended, Journal, Settings};
use tokenmeter::meter::{self, Ending, Meter, Moment, OpenCall};
use tokenmeter::metrics::{Limits, Metrics};
use tokenmeter::operation::Operation;
use tokenmeter::pricing::PriceBook;
use tokenmeter::record::{Intent, Record};
use tokenmeter::usage::Outcome;
use tokenmeter::wires::openai::{REQUEST_MEMBERS, ask_for_usage};
use tokenmeter::wires::{self, Consumption, Observer};

/// Something that happens to each call, ready to happen again and again.
pub(crate) type Path = Box<dyn FnMut()>;

/// What a socket gives at once.
const READ_BYTES: usize = 8 << 10;
/// Of a stream: chunks from one usage to the next.
const CHUNKS: usize = 1_000;

const EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-BxQ1m0w8nVdT2\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"gpt-5-2025-08-07\",\"service_tier\":\"default\",\"system_fingerprint\":null,\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"a8Zk2\"}\n\n";
const ANSWER: &[u8] = b"{\"id\":\"chatcmpl-BxQ1m0w8nVdT2\",\"object\":\"chat.completion\",\"created\":1764000000,\"model\":\"gpt-5-2025-08-07\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The meter counts every token that passes, and says who pays for it.\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1836,\"completion_tokens\":391,\"total_tokens\":2227,\"prompt_tokens_details\":{\"cached_tokens\":1024,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":128,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}},\"service_tier\":\"default\",\"system_fingerprint\":null}";

/// The path of that name.
pub(crate) fn path(name: &str) -> Path {
    match name {
        "attribution by key" => attribution(1_000),
        "request" => request(200),
        "request of 200 KB" => request(200_000),
        "chunk of a stream" => chunk(),
        "chunk of a stream, at the meter" => chunk_at_the_meter(),
        "small answer" => small_answer(),
        "price" => price(),
        "journal, a record" => journal_record(),
        "call, from intent to record" => call(),
        name => unreachable!("{name} is no path"),
    }
}

/// Who pays, by a virtual key of so many, each of a team of its own; one key after the other.
pub(crate) fn attribution(keys: usize) -> Path {
    let secrets: Vec<String> = (0..keys).map(|number| format!("tm_{number:0>43}")).collect();
    let team = |number: usize| TeamId::parse(&format!("team-{number}")).unwrap();
    let key = |(number, secret): (usize, &String)| {
        let sha256 = keys::digest(secret.as_bytes());
        Key { id: keys::key_id(&sha256), sha256, team: team(number), app: None, is_revoked: false }
    };
    let keys: Vec<Key> = secrets.iter().enumerate().map(key).collect();
    let department = DepartmentId::parse("customer-service").unwrap();
    let teams = (0..secrets.len()).map(|number| Team { id: team(number), department: department.clone() });
    let settings = attribution::Settings { teams: teams.collect(), ..attribution::Settings::default() };
    let attribution = Attribution::new(settings, Arc::new(KeySet::new(keys)));
    let requests: Vec<HeaderMap> = secrets.iter().map(|secret| headers(secret)).collect();
    let mut next = 0;
    Box::new(move || {
        next = (next + 1) % requests.len();
        divan::black_box(attribution.of(&requests[next], None).unwrap());
    })
}

/// Headers as an SDK sends them.
fn headers(secret: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {secret}")).unwrap());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [("accept", "application/json"), ("user-agent", "OpenAI/Python 2.8.1"), ("host", "127.0.0.1")]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for name in ["x-stainless-lang", "x-stainless-package-version", "x-stainless-os", "x-stainless-arch"] {
        headers.insert(name, HeaderValue::from_static("python"));
    }
    headers
}

/// What is looked for in a request of about so many bytes, whose model stands behind its prompt, as some SDKs write it.
pub(crate) fn request(bytes: usize) -> Path {
    let prompt = "The quick brown fox \\\"jumps\\\" over the lazy dog; pack my box with five dozen jugs.\\n";
    let prompt = prompt.repeat(bytes / prompt.len() + 1);
    let text = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"model":"gpt-5","stream":true}}"#);
    Box::new(move || {
        let mut members = Members::new(REQUEST_MEMBERS);
        text.as_bytes().chunks(READ_BYTES).for_each(|read| members.feed(read));
        assert!(members.value("model").is_some(), "the model is not found");
        divan::black_box(ask_for_usage(&members));
    })
}

fn observer() -> Box<dyn Observer> {
    wires::by_name("openai").unwrap().observer(Operation::Chat, "openai")
}

fn stream_framer() -> Framer {
    wires::by_name("openai").unwrap().framer(Some(b"text/event-stream"), None)
}

/// A chunk of a stream, cut and looked at.
pub(crate) fn chunk() -> Path {
    let (mut framer, mut observer, mut chunks) = (stream_framer(), observer(), 0);
    Box::new(move || {
        chunks += 1;
        if chunks % CHUNKS == 0 {
            (framer, observer) = (stream_framer(), self::observer());
        }
        framer.feed(EVENT, &mut |unit| observer.unit(unit));
        divan::black_box(observer.is_terminal());
    })
}

/// The same, and what the meter does about it: what came so far is noted now and then.
pub(crate) fn chunk_at_the_meter() -> Path {
    let books = Books::open();
    let (mut framer, mut observer) = (stream_framer(), observer());
    let (mut call, _) = books.open_call();
    call.answered(200);
    Box::new(move || {
        let _kept = &books;
        call.first_byte();
        framer.feed(EVENT, &mut |unit| observer.unit(unit));
        call.progressed(&mut *observer);
    })
}

/// A whole answer, from its first byte to its tokens.
pub(crate) fn small_answer() -> Path {
    Box::new(|| {
        divan::black_box(answered().reading().tokens.output.unwrap());
    })
}

fn answered() -> Box<dyn Observer> {
    let mut framer = wires::by_name("openai").unwrap().framer(Some(b"application/json"), None);
    let mut observer = observer();
    framer.feed(ANSWER, &mut |unit| observer.unit(unit));
    framer.end(&mut |unit| observer.unit(unit));
    observer
}

/// What an answer's tokens cost.
pub(crate) fn price() -> Path {
    let (prices, record) = (PriceBook::bundled(), record());
    Box::new(move || {
        let model = record.model.as_deref().unwrap();
        divan::black_box(prices.cost("openai", model, record.started_at, &record.tokens, None).unwrap());
    })
}

/// A record into the journal.
pub(crate) fn journal_record() -> Path {
    let (books, record) = (Books::open(), record());
    Box::new(move || drop(books.journal.append_record(record.clone()).unwrap()))
}

/// A call with a small answer, without the answer's reading: intent, price, record, metrics.
pub(crate) fn call() -> Path {
    let (books, bytes) = (Books::open(), u64::try_from(ANSWER.len()).unwrap());
    Box::new(move || {
        let (mut call, _) = books.open_call();
        call.sent();
        call.answered(200);
        call.first_byte();
        let ending = Ending { observer: Some(answered()), body_bytes: bytes, ..Ending::default() };
        divan::black_box(call.close(Outcome::Completed, ending)).expect("the record is in the journal");
    })
}

/// A journal in a folder of its own, and a meter that writes to it.
struct Books {
    journal: Arc<Journal>,
    meter: Arc<Meter>,
    intent: Intent,
    _folder: TempDir,
}

impl Books {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            bytes_max: u64::MAX,
            node: Some(NodeId::parse("bench").unwrap()),
            ..Settings::at(folder.path().join("journal"))
        };
        let journal = Arc::new(Journal::open(settings).unwrap().journal);
        let metrics = Arc::new(Metrics::new(Limits::default()));
        let prices = Arc::new(PriceBook::bundled());
        let meter = Meter::start(Arc::clone(&journal), prices, metrics, &meter::Settings::default()).unwrap();
        Self { journal, meter, intent: crate::intents::intent(&record()), _folder: folder }
    }

    fn open_call(&self) -> (OpenCall, Appended) {
        let now = Moment::now();
        let intent = Intent { id: RecordId::new(now.at), started_at: now.at, ..self.intent.clone() };
        self.meter.open(now, intent, wires::by_name("openai").unwrap(), Consumption::Now).unwrap()
    }
}

/// A call to a model of `OpenAI`'s, of today's prices.
fn record() -> Record {
    let at: Timestamp = "2026-09-22T13:22:01.123456Z".parse().unwrap();
    let call = (0..).map(|number| crate::calls::record(number, 100));
    let mut record =
        call.into_iter().find(|call| call.provider.as_str() == "openai" && call.usage_raw.is_some()).unwrap();
    (record.started_at, record.ended_at) = (at, at);
    record
}
