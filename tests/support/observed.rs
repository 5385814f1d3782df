//! Observed: recorded answers, read as the proxy reads them.

#![expect(clippy::unwrap_used, reason = "a row that cannot be read must be heard")]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Exchange, Observer};

use crate::support::Row;

/// What the row's request is taken for.
pub(crate) fn exchange(row: &Row) -> Option<Exchange<'_>> {
    let upstream = wires::by_name(row.wire()?).unwrap();
    let method: Method = row.method.as_deref().unwrap_or("POST").parse().unwrap();
    Some(wires::recognise(upstream, &method, row.path().split('?').next().unwrap()))
}

/// What has seen the row's answer, its body in `chunks` that are written in `encoding`.
pub(crate) fn observed<'a>(
    row: &Row,
    exchange: &Exchange<'_>,
    encoding: Option<&str>,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Box<dyn Observer> {
    let mut observer = exchange.wire.observer(exchange.operation, &row.provider);
    let mut headers = HeaderMap::new();
    for (name, _) in row.response_headers.iter().flatten() {
        if let (Ok(name), Some(Ok(value))) =
            (name.parse::<HeaderName>(), row.response_header(name).map(HeaderValue::from_str))
        {
            headers.insert(name, value);
        }
    }
    observer.head(&headers);
    // As the proxy does: a batch's results are lines, whatever they are called.
    let content_type = row.response_header("content-type").filter(|_| exchange.operation != Operation::Batch);
    let content_type = content_type.or((exchange.operation == Operation::Batch).then_some("application/jsonl"));
    let mut framer = exchange.wire.framer(content_type.map(str::as_bytes), encoding.map(str::as_bytes));
    for chunk in chunks {
        framer.feed(chunk, &mut |unit| observer.unit(unit));
    }
    framer.end(&mut |unit| observer.unit(unit));
    observer
}
