//! `count`: the tokens of a text or of a request, counted as a call's would be.

use std::fmt::Display;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::app::Places;
use crate::config::Config;
use crate::operation::Operation;
use crate::proxy::upstream;
use crate::tokenizer::calibration::{Calibration, Key};
use crate::tokenizer::measured::{Measured, Rule, measure};
use crate::tokenizer::{self, Estimated};
use crate::usage::Estimate;
use crate::wires::prompt::Prompt;
use crate::wires::{self, Wire, shape};

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
    operation: Option<Operation>,
    tokens: u64,
    estimate: Estimate,
    parts: Parts,
}

/// Of what the tokens are, by the tokenizer and before a model's template.
#[derive(Debug, Serialize)]
struct Parts {
    text: u64,
    messages: u64,
    calls: u64,
    tools: u64,
    tool_count: u64,
    schema: u64,
    images: u64,
    has_unseen: bool,
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
        let (kind, operation, prompt, upstream) = match (self.kind, shape::of_body(bytes, &self.model)) {
            (Some(Kind::Request) | None, Some((shaped, operation))) => {
                let wire = wire.unwrap_or(shaped);
                let prompt = prompt(wire, operation, bytes)?;
                (Kind::Request, Some(operation), prompt, named.or_else(|| speaks_like(config, wire)))
            }
            (Some(Kind::Request), None) => bail!(
                "this is no request: a JSON object with `messages`, `input`, `contents`, `prompt` or `inputs` is expected"
            ),
            (Some(Kind::Text), _) | (None, None) => {
                let text = std::str::from_utf8(bytes).context("this is no UTF-8 text, and no request")?;
                (Kind::Text, None, Prompt { texts: vec![text.to_owned()], ..Prompt::default() }, named)
            }
        };
        let (name, provider) = upstream.map_or(("", ""), |one| (one.name.as_str(), one.provider.as_str()));
        let counter = config.counting.tokenizers.counter(name, &self.model);
        let measured = measure(&prompt, operation.unwrap_or(Operation::TextCompletion), &counter, provider);
        let Estimated { input, estimate, .. } = self.estimate(config, upstream, operation, measured);
        let Measured { text, messages, calls, tools, tool_count, schema, images, has_unseen, .. } = measured;
        Ok(Found {
            kind,
            model: self.model.clone(),
            upstream: upstream.map(|upstream| upstream.name.to_string()),
            operation,
            tokens: input.unwrap_or_default(),
            estimate,
            parts: Parts { text, messages, calls, tools, tool_count, schema, images, has_unseen },
        })
    }

    /// What was learned of such calls says better than a rule what they cost. Of a text alone no call teaches; by its model's
    /// own tokenizer it has exactly as many.
    fn estimate(
        &self,
        config: &Config,
        upstream: Option<&upstream::Settings>,
        operation: Option<Operation>,
        measured: Measured,
    ) -> Estimated {
        let Measured { tokens, extrapolated, method, rule, .. } = measured;
        let exactly = || Estimated {
            input: Some(tokens),
            output: None,
            estimate: Estimate { low: tokens, high: tokens, method: method.to_owned(), observations: 0 },
        };
        let is_own = match method {
            "bytes" => false,
            _ if extrapolated > 0 => false,
            "o200k" | "cl100k" => rule == Rule::Exact,
            _ => true,
        };
        let Some(any) = upstream.or(config.upstreams.first()).filter(|_| operation.is_some() || !is_own) else {
            return exactly();
        };
        let learned = match (upstream, operation) {
            (Some(_), Some(_)) => learned(config).unwrap_or_else(|error| {
                super::tell(&format!("counted without what was learned: {error:#}"));
                Calibration::default()
            }),
            (None, _) | (_, None) => Calibration::default(),
        };
        let operation = operation.unwrap_or(Operation::TextCompletion);
        let key = Key { upstream: any.name.clone(), model: self.model.clone(), operation };
        tokenizer::estimate(&tokenizer::Parts { prompt: Some(measured), answer: None }, 0, &learned, &key, true)
    }
}

/// What the ledger knows of calls with reported usage. Nothing is made where there is no ledger.
fn learned(config: &Config) -> anyhow::Result<Calibration> {
    let mut calibration = Calibration::default();
    let places = Places::of(&config.ledger);
    if places.ledger.exists() {
        let rows = places.ledger()?.calibration()?;
        // A row of another version is as good as none.
        rows.iter().filter(|row| calibration.remember(row).is_err()).for_each(drop);
    }
    Ok(calibration)
}

fn prompt(wire: &dyn Wire, operation: Operation, body: &[u8]) -> anyhow::Result<Prompt> {
    wire.prompt(operation, body).with_context(|| {
        format!("the prompt of this request cannot be read by wire `{}`; name another with --wire", wire.name())
    })
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
    let at = upstream.as_ref().map(|upstream| format!(" at {upstream}")).unwrap_or_default();
    let band = if low == high { String::new() } else { format!(", probably {low} to {high}") };
    let mut lines = vec![format!("{tokens} tokens of {model}{at}{band}\n")];
    let mut line = |name: &str, value: &dyn Display| lines.push(format!("  {name:<14}{value}\n"));
    line("read as", &operation.map_or("text", |operation| operation.as_str()));
    line("counted by", method);
    if operation.is_some() {
        line("learned from", &format_args!("{observations} call{}", if *observations == 1 { "" } else { "s" }));
        line("text", &parts.text);
        line("messages", &parts.messages);
    }
    for (name, count) in [("calls", parts.calls), ("schema", parts.schema), ("images", parts.images)] {
        if count > 0 {
            line(name, &count);
        }
    }
    if parts.tool_count > 0 {
        line("tools", &format_args!("{} as JSON; tools: {}", parts.tools, parts.tool_count));
    }
    if parts.has_unseen {
        line("uncounted", &"files, audio or what the provider keeps");
    }
    lines.concat()
}
