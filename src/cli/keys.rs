//! `keys new`, `keys list`, `keys revoke`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use secrecy::ExposeSecret as _;

use crate::app::Places;
use crate::attribution::keys::{digest, key_id, new_secret};
use crate::config::Config;
use crate::ids::{AppId, KeyId, TeamId};
use crate::ledger::{Key, Ledger};
use crate::meter::Moment;

/// `keys …`.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Makes a virtual key and prints it, once: only its SHA-256 is kept.
    New {
        /// The team that its calls are paid by.
        #[arg(long)]
        team: String,
        /// The team's application.
        #[arg(long)]
        app: Option<String>,
    },
    /// Lists the keys of the configuration and of the ledger.
    List,
    /// Revokes a key of the ledger: a running server refuses it within a second.
    Revoke {
        /// The key's id, `k_…`.
        id: String,
    },
}

impl Keys {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        super::log_quietly();
        match self {
            Self::New { team, app } => new(config, &team, app.as_deref()),
            Self::List => list(config),
            Self::Revoke { id } => revoke(config, &id),
        }
    }
}

fn open(config: &Config) -> anyhow::Result<Ledger> {
    let directory = &config.ledger.directory;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make `{}` (`ledger.directory`)", directory.display()))?;
    Ok(Places::of(&config.ledger).ledger()?)
}

fn new(config: &Config, team: &str, app: Option<&str>) -> anyhow::Result<ExitCode> {
    let team = TeamId::parse(team).with_context(|| format!("`{team}` is not a team id"))?;
    if !config.teams.iter().any(|known| known.id == team) {
        let known: Vec<&str> = config.teams.iter().map(|known| known.id.as_str()).collect();
        if known.is_empty() {
            bail!(
                "team `{team}` is not configured, and no team is; add a [[team]] with its id to the configuration file and give it with --config"
            );
        }
        bail!("team `{team}` is not configured; known: {}", known.join(", "));
    }
    let app = app.map(AppId::parse).transpose().context("the app is not an id")?;
    let secret = new_secret()?;
    let sha256 = digest(secret.expose_secret().as_bytes());
    let key = Key { id: key_id(&sha256), sha256, team, app, created_at: Moment::now().at, revoked_at: None };
    open(config)?.insert_key(&key)?;
    super::print(&format!("{}\n", secret.expose_secret()))?;
    super::tell(&format!("key {} of team {}; it is not shown again", key.id, key.team));
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config) -> anyhow::Result<ExitCode> {
    let mut rows = vec![["ID", "TEAM", "APP", "CREATED", "REVOKED", "KEPT IN"].map(str::to_owned)];
    for key in &config.attribution.keys {
        let app = key.app.as_ref().map(AppId::to_string).unwrap_or_default();
        rows.push([key.id.to_string(), key.team.to_string(), app, String::new(), String::new(), "config".into()]);
    }
    let places = Places::of(&config.ledger);
    places.ledger.check(&places.journal)?;
    for key in if places.ledger.exists() { places.ledger()?.keys()? } else { Vec::new() } {
        let app = key.app.as_ref().map(AppId::to_string).unwrap_or_default();
        let revoked = key.revoked_at.map(|at| at.to_string()).unwrap_or_default();
        rows.push([
            key.id.to_string(),
            key.team.to_string(),
            app,
            key.created_at.to_string(),
            revoked,
            "ledger".into(),
        ]);
    }
    super::print(&aligned(&rows))?;
    Ok(ExitCode::SUCCESS)
}

fn aligned(rows: &[[String; 6]]) -> String {
    let widths: Vec<usize> = (0..6)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn revoke(config: &Config, id: &str) -> anyhow::Result<ExitCode> {
    if config.attribution.keys.iter().any(|key| key.id.as_str() == id) {
        bail!("key `{id}` is kept in the configuration; remove its [[key]] there");
    }
    let key =
        KeyId::parse(id).with_context(|| format!("`{id}` is not a key's id; `tokenmeter keys list` shows them"))?;
    if !open(config)?.revoke_key(&key, Moment::now().at)? {
        bail!("no key `{id}` that could be revoked; `tokenmeter keys list` shows them");
    }
    super::print(&format!("revoked {id}\n"))?;
    Ok(ExitCode::SUCCESS)
}
