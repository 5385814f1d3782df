//! Replay: an answer's bytes through framer and observer, as the proxy does.

use tokenmeter::framing::Framer;
use tokenmeter::wires::Observer;

/// Shows `body`, cut at `cuts` (counted from the front again where they are beyond its end), to `observer`.
pub(crate) fn replay(framer: &mut Framer, observer: &mut dyn Observer, body: &[u8], cuts: &[usize]) {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    cuts.sort_unstable();
    let mut begin = 0;
    for end in cuts.into_iter().chain([body.len()]) {
        framer.feed(body.get(begin..end).unwrap_or_default(), &mut |unit| observer.unit(unit));
        begin = end;
    }
    framer.end(&mut |unit| observer.unit(unit));
}

/// All that was read of an answer.
pub(crate) fn facts(observer: &mut dyn Observer) -> String {
    format!("{:?} {:?} {}", observer.reading(), observer.delivered(), observer.is_terminal())
}
