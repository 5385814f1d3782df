//! Learned: what calls with reported usage taught, read from the ledger at start and kept there about once a minute.
//! Where that fails, estimates are less sure than they could be, and nothing else.

use std::borrow::BorrowMut;

use crate::ledger::{Ledger, LedgerError};
use crate::meter::Meter;
use crate::tokenizer::calibration::Calibration;

/// What `ledger` knows; nothing where it is away.
pub(super) fn load(ledger: Option<&Ledger>) -> Calibration {
    let mut calibration = Calibration::default();
    let rows = ledger.map(Ledger::calibration).transpose().unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "what was learned of calls cannot be read");
        None
    });
    for row in rows.into_iter().flatten() {
        if let Err(error) = calibration.remember(&row) {
            tracing::warn!(
                upstream = %row.key.upstream,
                operation = row.key.operation.as_str(),
                error = &error as &dyn std::error::Error,
                "what was learned of calls cannot be taken up; it is learned anew"
            );
        }
    }
    calibration
}

/// Keeps what `meter` has learned since the last time in the ledger that `open` gives. Not while a disk is full, whose last
/// space is for records.
pub(super) fn keep<L: BorrowMut<Ledger>>(meter: &Meter, open: impl FnOnce() -> Result<L, LedgerError>) {
    let journal = meter.journal();
    if journal.needs_all_space() || journal.failure().is_some() {
        return;
    }
    let rows = meter.newly_learned();
    if rows.is_empty() {
        return;
    }
    let kept =
        open().and_then(|mut ledger| ledger.borrow_mut().keep_calibration(journal.node(), &rows, meter.now().at));
    if let Err(error) = kept {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "what was learned of calls cannot be kept in the ledger now"
        );
        meter.not_kept(&rows);
    }
}
