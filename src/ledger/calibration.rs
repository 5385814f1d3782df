//! Calibration: what was learned of prompts and answers, kept for the next start.

use jiff::SignedDuration;

use crate::ids::UpstreamName;
use crate::operation::Operation;
use crate::tokenizer::calibration::{Key, Row};

/// How long what was learned of a key is kept behind its last lesson, also that of nodes that are no more.
pub(super) const KEPT_FOR: SignedDuration = SignedDuration::from_hours(60 * 24);

/// A key as a database has it.
pub(super) struct Words {
    pub(super) upstream: String,
    pub(super) model: String,
    pub(super) operation: String,
}

/// The rows behind those of a database, newest first, in the order of their lessons. A key that is none of ours is left out.
pub(super) fn read(rows: Vec<(Words, String, u64)>) -> Vec<Row> {
    let row = |(Words { upstream, model, operation }, state, observations): (Words, String, u64)| {
        let key = Operation::ALL
            .into_iter()
            .find(|known| known.as_str() == operation)
            .zip(UpstreamName::parse(&upstream).ok())
            .map(|(operation, upstream)| Key { upstream, model, operation });
        if key.is_none() {
            tracing::warn!(
                upstream,
                operation,
                "what was learned of calls is of a kind that this binary does not know"
            );
        }
        Some(Row { key: key?, state, observations })
    };
    rows.into_iter().rev().filter_map(row).collect()
}
