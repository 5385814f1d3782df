//! The `tokenmeter` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tokenmeter::cli::run() {
        Ok(code) => code,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn tell(error: &anyhow::Error) {
    eprintln!("tokenmeter: {error:#}");
}
