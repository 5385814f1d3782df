//! Watch: a call, and the reader of its answer's copy.

use crate::framing::Framer;
use crate::journal::Appended;
use crate::meter::{Ending, OpenCall};
use crate::usage::Outcome;
use crate::wires::Observer;

/// A call and the reader of its answer. Dropped before it is closed, its client has left: what was read is known.
pub(crate) struct Watch {
    call: Option<OpenCall>,
    reader: Option<Reader>,
}

/// Reads an answer's copy.
pub(crate) struct Reader {
    pub(crate) framer: Framer,
    pub(crate) observer: Box<dyn Observer>,
}

impl Watch {
    pub(crate) fn new(call: OpenCall, reader: Option<Reader>) -> Self {
        Self { call: Some(call), reader }
    }

    /// Reads `chunk`; true when it held the answer's terminal event.
    pub(crate) fn read(&mut self, chunk: &[u8]) -> bool {
        if let Some(call) = &mut self.call {
            call.first_byte();
        }
        let Some(Reader { framer, observer }) = &mut self.reader else { return false };
        framer.feed(chunk, &mut |unit| observer.unit(unit));
        observer.is_terminal()
    }

    /// Closes the call.
    pub(crate) fn close(mut self, outcome: Outcome) -> Option<Appended> {
        self.settle(outcome)
    }

    fn settle(&mut self, outcome: Outcome) -> Option<Appended> {
        let call = self.call.take()?;
        let ending = match self.reader.take() {
            None => Ending::default(),
            Some(Reader { mut framer, mut observer }) => {
                framer.end(&mut |unit| observer.unit(unit));
                Ending { observer: Some(observer), is_unreadable: framer.unreadable() }
            }
        };
        call.close(outcome, ending)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _: Option<Appended> = self.settle(Outcome::ClientClosed);
    }
}
