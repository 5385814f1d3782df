//! Upstreams: those of the file, or the built-in ones; and what is known of the providers behind them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::reader::Section;
use crate::config::secrets::Secrets;
use crate::ids::{Provider, UpstreamName};
use crate::proxy::RESERVED_NAMES;
use crate::proxy::upstream::{Base, HttpVersion, OnClientClose, Settings, Unmetered};
use crate::wires::Wire;

/// `base_url` of the upstream that is answered inside the process.
const DEMO: &str = "demo:";

const CONNECT_TIMEOUT_SECS: u64 = 10;
const HEAD_TIMEOUT_SECS: u64 = 600;
const IDLE_TIMEOUT_SECS: u64 = 600;
const COUNT_EVERY_SECS: u64 = 60;

/// Upstreams of a process without any in its file: name, wire, base URL.
/// Each is scheme and host, so that clients keep the path that the provider documents.
const BUILT_IN: &[(&str, &str, &str)] = &[
    ("openai", "openai", "https://api.openai.com"),
    ("anthropic", "anthropic", "https://api.anthropic.com"),
    ("gemini", "gemini", "https://generativelanguage.googleapis.com"),
    ("mistral", "openai", "https://api.mistral.ai"),
    ("deepseek", "openai", "https://api.deepseek.com"),
    ("groq", "openai", "https://api.groq.com"),
    ("xai", "openai", "https://api.x.ai"),
    ("openrouter", "openai", "https://openrouter.ai"),
    ("together", "openai", "https://api.together.xyz"),
    ("perplexity", "openai", "https://api.perplexity.ai"),
    ("cohere", "cohere", "https://api.cohere.com"),
    ("dashscope", "openai", "https://dashscope.aliyuncs.com"),
    ("zhipu", "openai", "https://open.bigmodel.cn"),
    ("moonshot", "openai", "https://api.moonshot.cn"),
    ("cerebras", "openai", "https://api.cerebras.ai"),
    ("fireworks", "openai", "https://api.fireworks.ai"),
    ("huggingface", "openai", "https://router.huggingface.co"),
    ("zai", "openai", "https://api.z.ai"),
    ("voyage", "openai", "https://api.voyageai.com"),
    ("vertex", "vertex", "https://aiplatform.googleapis.com"),
    ("ollama", "ollama", "http://127.0.0.1:11434"),
    ("demo", "openai", DEMO),
];

/// Providers by the end of their host: `.x` is any host below `x`, `x` is `x` alone.
const PROVIDERS: &[(&str, &str)] = &[
    ("api.openai.com", "openai"),
    ("api.anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gemini"),
    ("aiplatform.googleapis.com", "vertex"),
    ("-aiplatform.googleapis.com", "vertex"),
    ("api.mistral.ai", "mistral"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.x.ai", "xai"),
    ("openrouter.ai", "openrouter"),
    ("api.together.xyz", "together"),
    ("api.together.ai", "together"),
    ("api.perplexity.ai", "perplexity"),
    ("api.cohere.com", "cohere"),
    ("api.cohere.ai", "cohere"),
    ("dashscope.aliyuncs.com", "dashscope"),
    ("dashscope-intl.aliyuncs.com", "dashscope"),
    ("open.bigmodel.cn", "zhipu"),
    ("api.z.ai", "zai"),
    ("api.moonshot.cn", "moonshot"),
    ("api.moonshot.ai", "moonshot"),
    ("api.cerebras.ai", "cerebras"),
    ("api.fireworks.ai", "fireworks"),
    ("api.voyageai.com", "voyage"),
    ("router.huggingface.co", "huggingface"),
    ("api-inference.huggingface.co", "huggingface"),
    ("api.cloudflare.com", "cloudflare"),
    ("api.githubcopilot.com", "copilot"),
    (".openai.azure.com", "azure"),
    (".services.ai.azure.com", "azure"),
    (".cognitiveservices.azure.com", "azure"),
    (".amazonaws.com", "bedrock"),
];

/// Providers whose chat streams tell their usage unasked, in the last or in every chunk. Any other server of the
/// `openai` wire is asked for it.
const REPORTS_UNASKED: &[&str] = &[
    "cerebras",
    "cloudflare",
    "copilot",
    "databricks",
    "deepseek",
    "groq",
    "huggingface",
    "llamacpp",
    "mistral",
    "mistralrs",
    "openrouter",
    "perplexity",
    "together",
    "vercel-gateway",
    "xiaomi",
    "zai",
    "zhipu",
];

/// The upstreams of the file; the built-in ones if it has none.
pub(super) fn read(root: &Section<'_>, secrets: Secrets<'_>, wires: &[&'static dyn Wire]) -> Vec<Settings> {
    let sections = root.sections("upstream");
    if sections.is_empty() {
        return built_in(wires);
    }
    let mut names = HashSet::new();
    sections.iter().filter_map(|section| upstream(section, secrets, wires, &mut names)).collect()
}

/// The built-in upstreams of every wire that this build has.
fn built_in(wires: &[&'static dyn Wire]) -> Vec<Settings> {
    let of = |(name, wire, base_url): &(&str, &str, &str)| {
        let wire = *wires.iter().find(|known| known.name() == *wire)?;
        let base = base_of(base_url).ok()?;
        let provider = provider_of(&base).unwrap_or(name);
        Some(Settings {
            name: UpstreamName::parse(name).ok()?,
            wire,
            provider: Provider::parse(provider).ok()?,
            base,
            credential: None,
            count_every: None,
            adds_stream_usage: adds_stream_usage(provider),
            on_client_close: OnClientClose::default(),
            unmetered: Unmetered::default(),
            proxy_url: None,
            ca_file: None,
            http_version: HttpVersion::default(),
            connect_timeout: Duration::from_secs(CONNECT_TIMEOUT_SECS),
            head_timeout: Duration::from_secs(HEAD_TIMEOUT_SECS),
            idle_timeout: Duration::from_secs(IDLE_TIMEOUT_SECS),
        })
    };
    BUILT_IN.iter().filter_map(of).collect()
}

/// `None` only beside a problem.
pub(super) fn upstream(
    section: &Section<'_>,
    secrets: Secrets<'_>,
    wires: &[&'static dyn Wire],
    names: &mut HashSet<UpstreamName>,
) -> Option<Settings> {
    let name = section.required_id("name", UpstreamName::parse);
    if let Some(name) = &name {
        check_name(section, name, names);
    }
    let choices: Vec<(&str, &'static dyn Wire)> = wires.iter().map(|wire| (wire.name(), *wire)).collect();
    let known: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    section.require("wire", &format!("say how this API speaks; known: {}", known.join(", ")));
    let wire = section.choice("wire", &choices);
    section.require("base_url", "write the provider's address, such as \"https://api.openai.com\"");
    let base = section.text("base_url").and_then(|text| match base_of(text) {
        Ok(base) => Some(base),
        Err(what) => {
            section.problem("base_url", what, "write scheme, host and perhaps a path: \"https://api.openai.com\"");
            None
        }
    });
    let named_provider = section.id("provider", Provider::parse);
    let (credential, has_credential) = secrets.read(section, "api_key_env", "api_key_file");
    let count_every = count_every(section, has_credential, base.as_ref());
    let asked_usage = section.flag("add_stream_usage");
    let on_client_close = section
        .choice("on_client_close", &[("cancel", OnClientClose::Cancel), ("finish", OnClientClose::Finish)])
        .unwrap_or_default();
    let unmetered =
        section.choice("unmetered", &[("pass", Unmetered::Pass), ("refuse", Unmetered::Refuse)]).unwrap_or_default();
    let proxy_url = proxy_url(section, secrets);
    let ca_file = section.text("ca_file").map(PathBuf::from);
    if let Some(file) = ca_file.as_ref().filter(|file| secrets.resolve && !holds_certificate(file)) {
        section.problem(
            "ca_file",
            format!("names {}, from which no certificate can be read", file.display()),
            "name a PEM file of certificate authorities, readable by this process",
        );
    }
    let http_version =
        section.choice("http_version", &[("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2)]).unwrap_or_default();
    let connect_timeout = section.secs("connect_timeout_secs", CONNECT_TIMEOUT_SECS, 1..=600);
    let head_timeout = section.secs("head_timeout_secs", HEAD_TIMEOUT_SECS, 1..=86_400);
    let idle_timeout = section.secs("idle_timeout_secs", IDLE_TIMEOUT_SECS, 1..=86_400);
    section.finish();

    let (name, wire, base) = (name?, wire?, base?);
    let provider = match named_provider {
        Some(provider) => provider,
        None => Provider::parse(provider_of(&base).unwrap_or(name.as_str())).ok()?,
    };
    let adds_stream_usage = asked_usage.unwrap_or_else(|| adds_stream_usage(provider.as_str()));
    Some(Settings {
        name,
        wire,
        provider,
        base,
        credential,
        count_every,
        adds_stream_usage,
        on_client_close,
        unmetered,
        proxy_url,
        ca_file,
        http_version,
        connect_timeout,
        head_timeout,
        idle_timeout,
    })
}

/// How often the upstream is asked at most to count a prompt; `None` where it never is, and beside a problem.
fn count_every(section: &Section<'_>, has_credential: bool, base: Option<&Base>) -> Option<Duration> {
    let every = section.secs("count_every_secs", COUNT_EVERY_SECS, 1..=86_400);
    if section.flag("count_endpoint") != Some(true) {
        return None;
    }
    if base == Some(&Base::Demo) {
        section.problem(
            "count_endpoint",
            "is on, and nobody is there to be asked",
            "remove it: this upstream is a demo",
        );
    } else if !has_credential {
        section.problem(
            "count_endpoint",
            "is on, and there is no credential to ask with",
            "set `api_key_env` or `api_key_file`: a client's own credential is never used for it",
        );
    }
    Some(every)
}

fn check_name(section: &Section<'_>, name: &UpstreamName, names: &mut HashSet<UpstreamName>) {
    if RESERVED_NAMES.contains(&name.as_str()) {
        section.problem(
            "name",
            format!("is {:?}, with which API paths begin", name.as_str()),
            format!("choose another name; reserved: {}", RESERVED_NAMES.join(", ")),
        );
    }
    if !names.insert(name.clone()) {
        section.problem(
            "name",
            format!("is {:?}, which another upstream has", name.as_str()),
            "give each its own name",
        );
    }
}

/// Whether `file` can be read and holds certificates, and nothing that passes for one and is none.
pub(super) fn holds_certificate(file: &Path) -> bool {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .is_ok_and(|certificates| !certificates.is_empty())
}

/// A proxy's address holds a password perhaps: then it is a secret like any other.
fn proxy_url(section: &Section<'_>, secrets: Secrets<'_>) -> Option<SecretString> {
    let (secret, is_named) = secrets.read(section, "proxy_url_env", "proxy_url_file");
    let text = section.text("proxy_url");
    if let Some(text) = text {
        if text.contains('@') {
            let help = "put the whole URL in `proxy_url_env` or `proxy_url_file`";
            section.problem("proxy_url", "holds a user name", help);
        } else if !is_http_proxy(text) {
            section.problem("proxy_url", "is no address of an HTTP proxy", "write \"http://host:port\"");
        }
        if is_named {
            section.problem("proxy_url", "is given beside another place of the proxy's URL", "keep one of them");
        }
    }
    if secret.as_ref().is_some_and(|url| !is_http_proxy(url.expose_secret())) {
        let key = if section.has("proxy_url_env") { "proxy_url_env" } else { "proxy_url_file" };
        section.problem(
            key,
            "names a secret that is no URL of an HTTP proxy",
            "it reads http://user:password@host:port",
        );
    }
    secret.or_else(|| text.map(SecretString::from))
}

/// Whether `url` is one of an HTTP proxy spoken to in plain text, with or without a user.
fn is_http_proxy(url: &str) -> bool {
    url.strip_prefix("http://").is_some_and(|rest| {
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/');
        host.parse::<Authority>().is_ok_and(|authority| !authority.host().is_empty() && has_real_port(&authority))
    })
}

/// The base that `text` names, or what is wrong with it.
fn base_of(text: &str) -> Result<Base, String> {
    if text == DEMO {
        return Ok(Base::Demo);
    }
    if text.contains('@') {
        return Err("holds a user name; a credential is given with `api_key_env`".to_owned());
    }
    let uri: Uri = text.parse().map_err(|error| format!("is {text:?}, which is no URL: {error}"))?;
    let parts = uri.into_parts();
    let scheme = parts.scheme.filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let (Some(scheme), Some(authority)) = (scheme, parts.authority) else {
        return Err(format!("is {text:?}, which does not begin with http:// or https:// and a host"));
    };
    if authority.host().is_empty() || !has_real_port(&authority) {
        return Err(format!("is {text:?}, which has no usable host and port"));
    }
    if text.contains(['?', '#']) {
        return Err(format!("is {text:?}, which has a query or a fragment"));
    }
    let path = parts.path_and_query.map_or(String::new(), |path| path.path().trim_end_matches('/').to_owned());
    Ok(Base::Url { scheme, authority, path })
}

fn has_real_port(authority: &Authority) -> bool {
    let after_host = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, after)| after);
    !after_host.contains(':') || authority.port_u16().is_some_and(|port| port != 0)
}

/// The provider that is known by its host.
fn provider_of(base: &Base) -> Option<&'static str> {
    let Base::Url { authority, .. } = base else { return Some("demo") };
    let host = authority.host().to_ascii_lowercase();
    let matches = |known: &str| if known.starts_with(['.', '-']) { host.ends_with(known) } else { host == known };
    PROVIDERS.iter().find(|(known, _)| matches(known)).map(|(_, provider)| *provider)
}

/// Whether a provider is asked for the usage of a chat stream. Any server may have `OpenAI`'s chat completions beside a
/// dialect of its own; other streams are never touched.
fn adds_stream_usage(provider: &str) -> bool {
    !REPORTS_UNASKED.contains(&provider)
}
