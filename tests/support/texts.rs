//! Texts: what an answer delivered, each of its texts apart.

use tokenmeter::wires::Observer;

/// The texts that are kept of an answer, what is said first in front, with `|` between them.
pub(crate) fn texts_of(observer: &dyn Observer) -> String {
    let delivered = observer.delivered();
    let texts: Vec<&str> = delivered.texts().map(|(_, text)| text).filter(|text| !text.is_empty()).collect();
    texts.join("|")
}
