use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{Data, append};
use crate::journal::samples::{at, full_record, intent, json};
use crate::ledger::chain::{Link, link};
use crate::record::Record;
use crate::usage::TokenCounts;

/// What comes back of a record that went through journal and ledger.
fn through_the_ledger(record: Record) -> (Record, Record) {
    let data = Data::new();
    let written = append(&data.journal(), record);
    data.apply();
    (written.into_kept(), data.all_records().remove(0))
}

fn assert_hashes_the_same(record: Record) {
    let (written, read) = through_the_ledger(record);
    assert_eq!(json(&written), json(&read));
    assert_eq!(link(&Link::START, &written), link(&Link::START, &read));
}

#[test]
fn what_no_ledger_can_keep_hashes_the_same_after_it_was_kept() {
    let hostile = "a\0b\u{fffd}\u{7f}\u{202e}\r\n\"\\'; DROP TABLE records; -- 客服 🦀".to_owned();
    for count in [0, 1, i64::MAX.unsigned_abs(), i64::MAX.unsigned_abs() + 1, u64::MAX] {
        let record = full_record(&intent(0));
        let some = Some(count);
        assert_hashes_the_same(Record {
            started_at: Timestamp::from_nanosecond(at(0).as_nanosecond() + 1_999).unwrap(),
            ended_at: Timestamp::from_nanosecond(at(899).as_nanosecond() + 999_999_999).unwrap(),
            tags: [(hostile.clone(), String::new()), (String::new(), hostile.clone())].into(),
            wire: hostile.clone(),
            model_requested: Some(String::new()),
            model: Some(hostile.clone()),
            job: Some("\0".to_owned()),
            service_tier: Some("\0\0".to_owned()),
            price: Some(hostile.clone()),
            tokens: TokenCounts {
                input: some,
                cache_read: some,
                cache_write: some,
                output: some,
                reasoning: some,
                cache_write_1h: some,
                audio_input: some,
                audio_output: some,
                image_input: some,
                image_output: some,
            },
            units: [(hostile.clone(), count), ("searches".to_owned(), count)].into(),
            estimate: record.estimate.clone().map(|mut estimate| {
                estimate.method.clone_from(&hostile);
                (estimate.low, estimate.high, estimate.observations) = (count, count, count);
                estimate
            }),
            delivered_output: some,
            time_to_first_byte_ms: some,
            duration_ms: count,
            ..record
        });
    }
}

#[test]
fn usage_of_any_shape_hashes_the_same_after_it_was_kept() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for raw in [
        "null",
        "0.10",
        "-0",
        "1e999",
        "123456789012345678901234567890",
        r#" { "b" : 1, "a" :2,	"a": 1.0 } "#,
        "{\n}",
        r#""\u0000 \ud800 \/ é \u00e9""#,
        &deep,
    ] {
        let usage_raw = RawValue::from_string(raw.to_owned()).unwrap();
        // What reaches a ledger was read from a journal's JSON before.
        let mut record = full_record(&intent(0));
        record.usage_raw = serde_json::from_str(usage_raw.get()).unwrap();
        assert_hashes_the_same(record);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_record_of_any_texts_hashes_the_same_after_it_was_kept(
        texts in prop::collection::vec("\\PC{0,12}|[\u{0}-\u{ff}]{0,12}", 6),
        counts in prop::collection::vec(prop::option::of(any::<u64>()), 4),
        nanoseconds in 0..1_000_000_000_i128,
    ) {
        let mut record = full_record(&intent(0));
        record.ended_at = Timestamp::from_nanosecond(at(7).as_nanosecond() + nanoseconds).unwrap();
        record.wire.clone_from(&texts[0]);
        record.model = Some(texts[1].clone());
        record.price = Some(texts[2].clone());
        record.job = Some(texts[3].clone());
        record.tags = [(texts[4].clone(), texts[5].clone())].into();
        record.tokens.input = counts[0];
        record.tokens.image_output = counts[1];
        record.delivered_output = counts[2];
        record.units = counts[3].map(|count| (texts[5].clone(), count)).into_iter().collect();
        assert_hashes_the_same(record);
    }
}
