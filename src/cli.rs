//! Command line: what an operator, a developer and finance type.

mod count;
mod keys;
mod reading;
mod serving;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Wanted};
use crate::logging::{self, LogFormat};
use crate::problem::Problem;

/// Exit code of a configuration with problems: `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// Meters every call to a model provider: who used how many tokens.
#[derive(Debug, Parser)]
#[command(name = "tokenmeter", version, about, propagate_version = true)]
struct CommandLine {
    /// The configuration file. Without one: built-in defaults.
    #[arg(long, global = true, value_name = "FILE", env = "TOKENMETER_CONFIG")]
    config: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the proxy.
    Serve(serving::Serve),
    /// Validates the configuration; prints every problem it has.
    Check,
    /// Prints the monthly token consumption.
    Report(reading::Report),
    /// Prints records, by the time they ended.
    Records(reading::Records),
    /// Makes, lists and revokes virtual keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Counts the tokens of a text, or of a request as an SDK sends it, as a call's are counted that its provider does not
    /// report.
    Count(count::Count),
    /// Prices.
    #[command(subcommand)]
    Prices(reading::Prices),
    /// Derives every bucket again from the records, and checks that none is missing or was changed.
    Verify,
    /// Copies the embedded ledger to a new file, also while the server runs.
    Backup {
        /// The file to write; it must not exist.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Exits 0 when the server answers that it is ready.
    Healthcheck,
}

/// Runs the command line of this process.
pub fn run() -> anyhow::Result<ExitCode> {
    let CommandLine { config: file, command } = CommandLine::parse();
    // A variable that is set to nothing is as good as not set.
    let file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
    let file = file.as_deref();
    match command {
        Command::Serve(serve) => with_config(file, Wanted::All, |config| serve.run(config)),
        Command::Check => with_config(file, Wanted::All, |config| serving::check(&config)),
        Command::Report(report) => with_config(file, Wanted::OfLedger, |config| report.run(&config)),
        Command::Records(records) => with_config(file, Wanted::OfLedger, |config| records.run(&config)),
        Command::Keys(keys) => with_config(file, Wanted::OfLedger, |config| keys.run(&config)),
        Command::Count(count) => with_config(file, Wanted::ToCount, |config| count.run(&config)),
        Command::Prices(prices) => with_config(file, Wanted::None, |config| prices.run(&config)),
        Command::Backup { file: to } => with_config(file, Wanted::OfLedger, |config| reading::back_up(&config, &to)),
        Command::Verify => with_config(file, Wanted::OfLedger, |config| reading::verify(&config)),
        Command::Healthcheck => with_config(file, Wanted::None, |config| serving::healthcheck(&config)),
    }
}

/// Runs `command` with the configuration in `file`, or prints every problem it has.
fn with_config(
    file: Option<&Path>,
    wanted: Wanted,
    command: impl FnOnce(Config) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    match config::load(file, &config::environment, wanted) {
        Ok(config) => command(config),
        Err(problems) => {
            tell_problems(&problems);
            Ok(ExitCode::from(EXIT_CONFIG))
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command's output")]
fn tell_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
    eprintln!("{} problem{} found", problems.len(), if problems.len() == 1 { "" } else { "s" });
}

/// Prints `text` as a command's output. A reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Says `text` beside the output, so that the output is what was asked for and nothing else.
#[expect(clippy::print_stderr, reason = "a command's output")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// Starts the log of a command that is not the server: only what went wrong.
fn log_quietly() {
    logging::start(LogFormat::Text, "warn");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::CommandLine::command().debug_assert();
    }
}
