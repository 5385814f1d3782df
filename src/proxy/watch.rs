//! Watch: a call, and the reader of its answer's copy.

use std::task::Context;

use super::alarm::Alarm;
use super::body::Kept;
use crate::framing::Framer;
use crate::journal::Appended;
use crate::meter::{Ending, OpenCall};
use crate::usage::{Outcome, Units};
use crate::wires::Observer;
use crate::wires::delivered::{Bookmark, Delivered};

/// A call and the reader of its answer. Dropped before it is closed, its client has left: what was read is known.
pub(crate) struct Watch {
    call: Option<OpenCall>,
    look: Look,
    has_ended: bool,
    /// How far what is read had come when the client left; `None` while it is there.
    client_left_at: Option<Bookmark>,
    /// Wakes a stream that has stalled behind its last mark.
    mark_alarm: Option<Alarm>,
}

/// What is looked at of an answer.
pub(crate) enum Look {
    /// What it says.
    Read(Reader),
    /// How much it is: nobody reads it, and it may cost.
    Count(Passed),
    /// Nothing: it costs nothing.
    Away,
}

/// Reads an answer's copy.
pub(crate) struct Reader {
    pub(crate) framer: Framer,
    pub(crate) observer: Box<dyn Observer>,
}

/// Counts the bytes that pass of an exchange.
pub(crate) struct Passed {
    kept: Kept,
    response_bytes: u64,
}

impl Passed {
    pub(crate) fn new(kept: Kept) -> Self {
        Self { kept, response_bytes: 0 }
    }

    /// What has passed, as a record says it.
    pub(crate) fn units(&self) -> Units {
        units_of(self.kept.passed_bytes(), self.response_bytes)
    }
}

/// Bytes of both directions: all that is known of an exchange that nobody reads.
pub(crate) fn units_of(request_bytes: u64, response_bytes: u64) -> Units {
    [("request_bytes", request_bytes), ("response_bytes", response_bytes)]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
}

impl Watch {
    pub(crate) fn new(call: OpenCall, look: Look) -> Self {
        Self { call: Some(call), look, has_ended: false, client_left_at: None, mark_alarm: None }
    }

    /// Reads `chunk`; true when it held the answer's terminal event.
    pub(crate) fn read(&mut self, chunk: &[u8]) -> bool {
        if let Some(call) = &mut self.call {
            call.first_byte();
        }
        match &mut self.look {
            Look::Read(Reader { framer, observer }) => {
                framer.feed(chunk, &mut |unit| show(&mut **observer, unit));
                let is_terminal = observer.is_terminal();
                if let Some(call) = self.call.as_mut().filter(|_| !is_terminal) {
                    call.progressed(&mut **observer);
                }
                is_terminal
            }
            Look::Count(passed) => {
                let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                passed.response_bytes = passed.response_bytes.saturating_add(bytes);
                false
            }
            Look::Away => false,
        }
    }

    /// While nothing more comes: has what did come noted when that is due.
    pub(crate) fn poll_mark(&mut self, context: &mut Context<'_>) {
        let (Some(call), Look::Read(Reader { observer, .. })) = (&mut self.call, &mut self.look) else { return };
        while let Some(due) = call.mark_due() {
            let due = tokio::time::Instant::from_std(due);
            let alarm = self.mark_alarm.get_or_insert_with(|| Alarm::at(due));
            if alarm.deadline() != due {
                alarm.reset(due);
            }
            if alarm.poll(context).is_pending() {
                return;
            }
            call.mark(&mut **observer);
        }
    }

    /// Notes that the client has left, and what it had got by then: the rest is read without it.
    pub(crate) fn client_left(&mut self) {
        if let Look::Read(Reader { observer, .. }) = &self.look {
            self.client_left_at = Some(observer.kept().map(Delivered::bookmark).unwrap_or_default());
        }
    }

    /// Notes that the whole answer was read, although its client had left.
    pub(crate) fn has_ended(&mut self) {
        self.has_ended = true;
    }

    /// Closes the call.
    pub(crate) fn close(mut self, outcome: Outcome) -> Option<Appended> {
        self.settle(outcome)
    }

    fn settle(&mut self, outcome: Outcome) -> Option<Appended> {
        let call = self.call.take()?;
        let (is_whole, client_left_at) = (self.has_ended, self.client_left_at.take());
        let ending = match std::mem::replace(&mut self.look, Look::Away) {
            Look::Read(Reader { mut framer, mut observer }) => {
                framer.end(&mut |unit| show(&mut *observer, unit));
                let (is_unreadable, body_bytes) = (framer.unreadable(), framer.bytes());
                let observer = Some(observer);
                Ending { observer, is_whole, is_unreadable, body_bytes, client_left_at, ..Ending::default() }
            }
            Look::Count(passed) => Ending { units: passed.units(), ..Ending::default() },
            Look::Away => Ending::default(),
        };
        call.close(outcome, ending)
    }
}

/// Shows `unit` to `observer`. What stands behind the end is passed on but is no part of the answer, in whichever chunk
/// it comes, and be it half an event.
fn show(observer: &mut dyn Observer, unit: &[u8]) {
    if !observer.is_terminal() {
        observer.unit(unit);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _: Option<Appended> = self.settle(Outcome::ClientClosed);
    }
}
