//! `count`: the tokens of a text or of a request, counted as a call's would be.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::Config;
use crate::operation::Operation;
use crate::proxy::upstream;
use crate::tokenizer::{self, Estimated};
use crate::usage::Estimate;
use crate::wires::{self, Countable, Wire, shape};

/// `count`.
#[derive(Debug, Args)]
pub(super) struct Count {
    /// The text or the request. `-`, or none: the standard input.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The model's name, as a request names it.
    #[arg(long)]
    model: String,
    /// The upstream that the call would go to. Without it: the first that speaks like the request.
    #[arg(long)]
    upstream: Option<String>,
    /// How the request speaks, where it does not speak as its upstream does.
    #[arg(long)]
    wire: Option<String>,
    /// What it is. Without it: a request where it looks like one, else a text.
    #[arg(long = "as", value_enum)]
    kind: Option<Kind>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Text, counted as it is.
    Text,
    /// The body of a request, as an SDK sends it.
    Request,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Format {
    /// For a terminal.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// What was counted, and by what.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(rename = "as")]
    kind: Kind,
    model: String,
    upstream: Option<String>,
    provider: Option<String>,
    operation: Option<Operation>,
    tokens: u64,
    estimate: Estimate,
    parts: Parts,
}

/// Of what the tokens are.
#[derive(Debug, Serialize)]
struct Parts {
    text: u64,
    messages: u64,
}

impl Count {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        super::log_quietly();
        let bytes = read(self.file.as_deref())?;
        let found = self.count(config, &bytes)?;
        let text = match self.format {
            Format::Table => table(&found),
            Format::Json => serde_json::to_string(&found)? + "\n",
        };
        super::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    fn count(&self, config: &Config, bytes: &[u8]) -> anyhow::Result<Found> {
        let named = self.upstream.as_deref().map(|name| find(config, name)).transpose()?;
        let wire = match &self.wire {
            Some(name) => Some(wires::by_name(name).with_context(|| unknown_wire(name))?),
            None => named.map(|upstream| upstream.wire),
        };
        let shape = shape::of_body(bytes, &self.model);
        match (self.kind, shape) {
            (Some(Kind::Request) | None, Some((shaped, operation))) => {
                let wire = wire.unwrap_or(shaped);
                let upstream = named.or_else(|| speaks_like(config, wire));
                self.count_request(config, bytes, wire, operation, upstream)
            }
            (Some(Kind::Request), None) => bail!(
                "this is no request: a JSON object with `messages`, `input`, `contents`, `prompt` or `inputs` is expected"
            ),
            (Some(Kind::Text), _) | (None, None) => self.count_text(config, bytes, named),
        }
    }

    fn count_request(
        &self,
        config: &Config,
        body: &[u8],
        wire: &dyn Wire,
        operation: Operation,
        upstream: Option<&upstream::Settings>,
    ) -> anyhow::Result<Found> {
        let prompt = wire.prompt(operation, body).with_context(|| {
            format!("the prompt of this request cannot be read by wire `{}`; name another with --wire", wire.name())
        })?;
        Ok(self.found(config, Kind::Request, Some(operation), &prompt, upstream))
    }

    fn count_text(
        &self,
        config: &Config,
        bytes: &[u8],
        upstream: Option<&upstream::Settings>,
    ) -> anyhow::Result<Found> {
        let text = std::str::from_utf8(bytes).context("this is no UTF-8 text, and no request")?;
        let text = Countable { text: text.to_owned(), ..Countable::default() };
        Ok(self.found(config, Kind::Text, None, &text, upstream))
    }

    fn found(
        &self,
        config: &Config,
        kind: Kind,
        operation: Option<Operation>,
        prompt: &Countable,
        upstream: Option<&upstream::Settings>,
    ) -> Found {
        let upstream_name = upstream.map_or("", |upstream| upstream.name.as_str());
        let provider = upstream.map(|upstream| upstream.provider.as_str());
        let counter = config.counting.tokenizers.counter(upstream_name, &self.model);
        let Estimated { input, estimate, .. } =
            tokenizer::estimate(Some(prompt), None, 0, &counter, provider.unwrap_or_default());
        let text = config.counting.tokenizers.counter(upstream_name, &self.model).count(&prompt.text).tokens;
        Found {
            kind,
            model: self.model.clone(),
            upstream: upstream.map(|upstream| upstream.name.to_string()),
            provider: provider.map(str::to_owned),
            operation,
            tokens: input.unwrap_or_default(),
            estimate,
            parts: Parts { text, messages: prompt.messages },
        }
    }
}

fn read(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    if let Some(file) = file.filter(|file| *file != Path::new("-")) {
        return std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read the standard input")?;
    Ok(bytes)
}

fn find<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a upstream::Settings> {
    config.upstreams.iter().find(|upstream| upstream.name.as_str() == name).with_context(|| {
        let known: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        format!("upstream `{name}` is not configured; known: {}", known.join(", "))
    })
}

fn speaks_like<'a>(config: &'a Config, wire: &dyn Wire) -> Option<&'a upstream::Settings> {
    config.upstreams.iter().find(|upstream| upstream.wire.name() == wire.name())
}

fn unknown_wire(name: &str) -> String {
    let known: Vec<&str> = wires::REGISTRY.iter().map(|wire| wire.name()).collect();
    format!("wire `{name}` is unknown; known: {}", known.join(", "))
}

fn table(found: &Found) -> String {
    let Found { model, upstream, operation, tokens, estimate, parts, .. } = found;
    let Estimate { low, high, method, observations } = estimate;
    let what = operation.map_or("text", |operation| operation.as_str());
    let at = upstream.as_ref().map(|upstream| format!(" at {upstream}")).unwrap_or_default();
    let mut text = format!("{tokens} tokens of {model}{at}, probably {low} to {high}\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| text.push_str(&format!("  {name:<14}{value}\n"));
    line("read as", &what);
    line("counted by", method);
    line("learned from", &format_args!("{observations} calls"));
    line("text", &parts.text);
    line("messages", &parts.messages);
    text
}
