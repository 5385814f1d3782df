//! `report`, `records`, `prices`, `verify`: what finance and auditors ask.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::app::{self, Places};
use crate::config::Config;
use crate::ids::TeamId;
use crate::ledger::{ChainEnd, Cursor, Filter, Ledger, LedgerError, catch_up};
use crate::meter::Moment;
use crate::period::Month;
use crate::pricing::PriceBook;
use crate::report::{self, MonthReport};

/// How long a reading command waits for a running server to apply what its journal holds.
const CATCH_UP_WAIT: Duration = Duration::from_secs(10);
/// Records read at once.
const PAGE_RECORDS: usize = 1000;

/// `report`.
#[derive(Debug, Args)]
pub(super) struct Report {
    /// The month, in `report.timezone`. Without it: the current one.
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<String>,
    /// What to break the month down by: department, team, app, key, provider, upstream, operation, model.
    #[arg(long, value_name = "LIST")]
    by: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    format: ReportFormat,
    /// Writes to this file instead of the standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum ReportFormat {
    /// For a terminal.
    #[default]
    Table,
    /// For a spreadsheet.
    Csv,
    /// For programs.
    Json,
}

impl Report {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        super::log_quietly();
        let ledger = up_to_date(config)?;
        let month = match &self.month {
            Some(month) => Month::parse(month).map_err(|error| anyhow!("`--month` is `{month}`; it {error}"))?,
            None => Month::of(Moment::now().at, &config.report.zone),
        };
        let by = app::dimensions(self.by.as_deref()).map_err(|error| anyhow!(error))?;
        let settings = report::Settings { timezone: config.report.zone.clone() };
        let report = MonthReport::read(&ledger, month, &settings, &by)?;
        let mut text = Vec::new();
        match self.format {
            ReportFormat::Table => text.extend_from_slice(report::table::text(&report).as_bytes()),
            ReportFormat::Csv => {
                // Rows and their total have no place for calls that are in no row.
                if report.unmetered_requests > 0 {
                    super::tell(&report::table::unmetered(report.unmetered_requests));
                }
                report::csv::write(&report, &mut text)?;
            }
            ReportFormat::Json => text.extend_from_slice(report::json::text(&report)?.as_bytes()),
        }
        match &self.out {
            Some(path) => {
                std::fs::write(path, &text).with_context(|| format!("cannot write `{}`", path.display()))?;
            }
            None => to_reader(io::stdout().lock().write_all(&text))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `records`.
#[derive(Debug, Args)]
pub(super) struct Records {
    /// Only records that ended at this time or later: RFC 3339, such as 2026-11-01T00:00:00+08:00.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Only records that ended before this time.
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// Only records of this team.
    #[arg(long)]
    team: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    format: RecordsFormat,
    /// Writes to this file instead of the standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum RecordsFormat {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// For a spreadsheet.
    Csv,
}

impl Records {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        super::log_quietly();
        let ledger = up_to_date(config)?;
        let team = self.team.as_deref().map(TeamId::parse).transpose().context("`--team` is not a team id")?;
        let filter = Filter { from: self.from, to: self.to, team, ..Filter::default() };
        if let Some(before) = ledger.removed_before()?
            && filter.from.is_none_or(|from| from < before)
        {
            tell_removed(before);
        }
        let written = match &self.out {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
                self.write(&ledger, &filter, &mut BufWriter::new(file))
            }
            None => self.write(&ledger, &filter, &mut BufWriter::new(io::stdout().lock())),
        };
        match written {
            Err(error) if is_broken_pipe(&error) => {}
            written => written?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Reads and writes in pages, so that a year of records needs no more memory than a day.
    fn write(&self, ledger: &Ledger, filter: &Filter, out: &mut impl Write) -> anyhow::Result<()> {
        if self.format == RecordsFormat::Csv {
            report::records::write_csv_header(&mut *out)?;
        }
        let mut after: Option<Cursor> = None;
        loop {
            let page = ledger.records(filter, after.as_ref(), PAGE_RECORDS)?;
            match self.format {
                RecordsFormat::Jsonl => report::records::write_jsonl(&page, out)?,
                RecordsFormat::Csv => report::records::write_csv(&page, &mut *out)?,
            }
            match page.last() {
                Some(last) if page.len() == PAGE_RECORDS => after = Some(Cursor::of(last)),
                Some(_) | None => break,
            }
        }
        Ok(out.flush()?)
    }
}

#[expect(clippy::print_stderr, reason = "a command's output")]
fn tell_removed(before: Timestamp) {
    eprintln!("records before {before} were removed (`ledger.keep_records_days`); reports still have their sums");
}

/// `prices …`.
#[derive(Debug, Subcommand)]
pub(super) enum Prices {
    /// Prints the price in force of a model, and where it comes from.
    Show {
        /// The model's name.
        model: String,
        /// The provider, as records name it. Without it: every provider of a configured upstream.
        #[arg(long)]
        provider: Option<String>,
        /// The day, as YYYY-MM-DD in UTC. Without it: today.
        #[arg(long, value_name = "DATE")]
        at: Option<jiff::civil::Date>,
    },
}

impl Prices {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        let Self::Show { model, provider, at } = self;
        let at = match at {
            Some(date) => date.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp(),
            None => Moment::now().at,
        };
        let configured = config.upstreams.iter().map(|upstream| upstream.provider.to_string());
        let providers: BTreeSet<String> = provider.map_or_else(|| configured.collect(), |one| BTreeSet::from([one]));
        let prices = PriceBook::bundled();
        let found: String = providers.iter().filter_map(|provider| prices.describe(provider, &model, at)).collect();
        if found.is_empty() {
            let providers: Vec<String> = providers.into_iter().collect();
            bail!("no price is known for model `{model}` of {}; its calls cost null, never zero", providers.join(", "));
        }
        super::print(&found)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `verify`.
pub(super) fn verify(config: &Config) -> anyhow::Result<ExitCode> {
    super::log_quietly();
    let ledger = up_to_date(config)?;
    match ledger.verify()? {
        Ok(verified) => {
            super::print(&format!(
                "the ledger adds up: {} records, {} tokens, {} buckets, no gap in any node's order\n",
                verified.records, verified.tokens, verified.buckets
            ))?;
            if let Some(before) = verified.removed_before {
                super::print(&format!("records before {before} were removed, their sums are kept\n"))?;
            }
            tell_ends(&verified.ends)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(difference) => Err(anyhow!("the ledger does not add up: {difference}")),
    }
}

/// How far each node's records go, and the value that stands for them: to be noted where nobody can change it.
fn tell_ends(ends: &[ChainEnd]) -> anyhow::Result<()> {
    for ChainEnd { node, seq, link } in ends {
        super::print(&format!("node {node}: up to record {seq}, chain {link}\n"))?;
    }
    Ok(())
}

/// `backup`.
pub(super) fn back_up(config: &Config, to: &Path) -> anyhow::Result<ExitCode> {
    super::log_quietly();
    let places = Places::of(&config.ledger);
    match catch_up(&places.journal, &places.ledger, CATCH_UP_WAIT) {
        // What the server has not applied yet is in its journal, and goes on from what is copied.
        Ok(()) | Err(LedgerError::Behind { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let ends = Ledger::open(&places.ledger)?.back_up(to)?;
    super::print(&format!("the ledger is copied to {}\n", to.display()))?;
    tell_ends(&ends)?;
    Ok(ExitCode::SUCCESS)
}

/// The ledger with everything that the journal holds now.
fn up_to_date(config: &Config) -> anyhow::Result<Ledger> {
    let places = Places::of(&config.ledger);
    catch_up(&places.journal, &places.ledger, CATCH_UP_WAIT)?;
    Ok(places.ledger()?)
}

fn to_reader(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
