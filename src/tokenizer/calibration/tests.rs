//! What is learned, what is stated, and what it takes to hold it.

#![expect(clippy::arithmetic_side_effects, reason = "a test's counts are small")]

use proptest::prelude::*;

use super::*;

fn key(model: &str) -> Key {
    Key { upstream: UpstreamName::parse("somewhere").unwrap(), model: model.to_owned(), operation: Operation::Chat }
}

/// A chat of `text` tokens whose rule adds 7.
fn chat(text: u64) -> Measured {
    Measured { tokens: text + 7, method: "o200k", text, messages: 1, ..Measured::default() }
}

fn with_tools(text: u64, scaffold: u64) -> Measured {
    Measured { tokens: text + 107, tools: 100, tool_count: 2, scaffold, ..chat(text) }
}

fn teach(calibration: &mut Calibration, key: &Key, prompt: &Measured, prompt_tokens: u64) -> bool {
    calibration.learn(key, Lesson { prompt, prompt_tokens, answer: None })
}

/// Texts of many lengths.
fn lengths(count: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(|one| 20 + one * one * 37 % 900)
}

/// What was kept of `calibration`, read again.
fn again(calibration: &mut Calibration) -> Calibration {
    let mut read = Calibration::default();
    for row in calibration.changed() {
        read.remember(&row).unwrap();
    }
    read
}

#[test]
fn before_the_first_lesson_the_rule_stands_within_its_prior() {
    let calibration = Calibration::default();
    let predicted = calibration.prompt(&key("m"), &chat(93));
    assert_eq!(predicted, Prediction { tokens: 100, low: 40, high: 160, observations: 0 });
    let exact = Measured { rule: Rule::Exact, ..chat(93) };
    assert_eq!(calibration.prompt(&key("m"), &exact), Prediction { tokens: 100, low: 85, high: 115, observations: 0 });
    let by_length = Measured { method: BY_LENGTH, ..exact };
    assert_eq!(calibration.prompt(&key("m"), &by_length).low, 40);
}

#[test]
fn what_a_template_adds_is_found_and_the_band_narrows() {
    let mut calibration = Calibration::default();
    for text in lengths(25) {
        assert!(teach(&mut calibration, &key("m"), &chat(text), text * 11 / 10 + 40));
    }
    let predicted = calibration.prompt(&key("m"), &chat(500));
    assert!(predicted.tokens.abs_diff(590) <= 6, "{predicted:?}");
    assert!(predicted.high - predicted.low <= 60, "{predicted:?}");
    assert_eq!(predicted.observations, 25);
    assert_eq!(calibration.prompt(&key("another"), &chat(500)).tokens, 507);
    let elsewhere = Key { operation: Operation::Responses, ..key("m") };
    assert_eq!(calibration.prompt(&elsewhere, &chat(500)).observations, 0);
}

#[test]
fn a_rule_that_is_exact_is_corrected_around_the_text_only() {
    let mut calibration = Calibration::default();
    for text in lengths(25) {
        teach(&mut calibration, &key("m"), &Measured { rule: Rule::Exact, ..chat(text) }, text + 10);
    }
    let exact = Measured { rule: Rule::Exact, ..chat(50_000) };
    assert_eq!(calibration.prompt(&key("m"), &exact).tokens, 50_010);
}

#[test]
fn what_agents_send_again_is_known_the_second_time() {
    let mut calibration = Calibration::default();
    for text in lengths(30) {
        teach(&mut calibration, &key("m"), &with_tools(text, 1), text + 107);
    }
    teach(&mut calibration, &key("m"), &with_tools(200, 2), 507);
    let predicted = calibration.prompt(&key("m"), &with_tools(400, 2));
    assert!(predicted.tokens.abs_diff(707) <= 10, "{predicted:?}");
    let predicted = calibration.prompt(&key("m"), &with_tools(400, 1));
    assert!(predicted.tokens.abs_diff(507) <= 40, "{predicted:?}");
}

#[test]
fn a_whole_answer_is_estimated_with_what_it_hides_and_a_cut_one_is_not() {
    let mut calibration = Calibration::default();
    let text = |tokens| Generated { tokens, method: "o200k", ..Generated::default() };
    assert_eq!(calibration.answer(&key("m"), text(100), true).tokens, 100);
    for tokens in lengths(40) {
        let answer = Some((text(tokens), tokens + 300 + tokens % 7 * 20));
        calibration.learn(&key("m"), Lesson { prompt: &chat(tokens), prompt_tokens: tokens + 7, answer });
    }
    let whole = calibration.answer(&key("m"), text(100), true);
    assert!((400..520).contains(&whole.tokens) && whole.observations == 40, "{whole:?}");
    let cut = calibration.answer(&key("m"), text(100), false);
    assert_eq!((cut.tokens, cut.low, cut.observations), (100, 40, 0));
    assert!(cut.high >= whole.tokens, "{cut:?}");
}

#[test]
fn what_is_no_lesson_teaches_nothing() {
    let mut calibration = Calibration::default();
    let long = "m".repeat(MODEL_BYTES_MAX + 1);
    for (model, prompt, reported) in [
        ("", chat(10), 20),
        (long.as_str(), chat(10), 20),
        ("m\0", chat(10), 20),
        ("m", Measured { has_unseen: true, ..chat(10) }, 20),
        ("m", Measured { extrapolated: 1, ..chat(10) }, 20),
        ("m", Measured { method: BY_LENGTH, ..chat(10) }, 20),
        ("m", chat(10), 0),
        ("m", chat(10), u64::MAX),
        ("m", Measured { tokens: u64::MAX, ..chat(10) }, 20),
    ] {
        assert!(!teach(&mut calibration, &key(model), &prompt, reported), "{model} {prompt:?} {reported}");
    }
    assert!(calibration.changed().is_empty());
}

#[test]
fn what_is_kept_predicts_as_before() {
    let mut calibration = Calibration::default();
    for (count, text) in lengths(60).enumerate() {
        let model = ["m", "n", "only once"][if count == 7 { 2 } else { count % 2 }];
        let generated = Generated { tokens: text / 2, calls: 1, method: "o200k", ..Generated::default() };
        let prompt = with_tools(text, u64::MAX - text % 3);
        let answer = Some((generated, text / 2 + 9));
        calibration.learn(&key(model), Lesson { prompt: &prompt, prompt_tokens: text + 200, answer });
    }
    let read = again(&mut calibration);
    for model in ["m", "n", "only once", "never"] {
        let (key, prompt) = (key(model), with_tools(333, u64::MAX - 1));
        assert_eq!(read.prompt(&key, &prompt), calibration.prompt(&key, &prompt), "{model}");
        let generated = Generated { tokens: 77, calls: 2, method: "o200k", ..Generated::default() };
        assert_eq!(read.answer(&key, generated, true), calibration.answer(&key, generated, true), "{model}");
    }
    assert!(calibration.changed().is_empty(), "it was asked for");
    assert_eq!(read.saturated(), HashSet::new());
    teach(&mut calibration, &key("m"), &chat(5), 12);
    let rows = calibration.changed();
    assert_eq!(rows.len(), 1);
    calibration.take_back(&rows);
    assert_eq!(calibration.changed().len(), 1);
}

#[test]
fn what_is_not_of_this_binary_is_not_taken_up() {
    let mut calibration = Calibration::default();
    teach(&mut calibration, &key("m"), &chat(5), 12);
    let row = calibration.changed().pop().unwrap();
    let with = |state: String| Calibration::default().remember(&Row { state, ..row.clone() });
    assert!(with(row.state.clone()).is_ok());
    assert!(matches!(with(String::new()), Err(RowError::Syntax(_))));
    assert!(matches!(with(row.state.replace("\"version\":1", "\"version\":2")), Err(RowError::Numbers)));
    assert!(matches!(with(row.state.replacen("\"w\":[", "\"w\":[1.0,", 1)), Err(RowError::Numbers)));
}

#[test]
fn saturated_keys_are_found_by_their_hash() {
    let mut calibration = Calibration::default();
    for text in lengths(SATURATED_FROM) {
        teach(&mut calibration, &key("m"), &chat(text), text + 7);
        teach(&mut calibration, &key("n"), &chat(text), text + 7);
    }
    let Key { upstream, model, operation } = key("n");
    assert!(calibration.saturated().contains(&key_hash(&upstream, &model, operation)));
    assert_eq!(calibration.saturated().len(), 2);
    assert!(!calibration.saturated().contains(&key_hash(&upstream, "o", operation)));
}

#[test]
fn strangers_push_out_strangers_first_and_a_key_takes_some_kilobytes() {
    let mut calibration = Calibration::default();
    for text in lengths(300) {
        let generated = Generated { tokens: text, calls: text % 3, method: "o200k", ..Generated::default() };
        let prompt = with_tools(text, text);
        let answer = Some((generated, text * 3));
        calibration.learn(&key("known"), Lesson { prompt: &prompt, prompt_tokens: text * 2, answer });
    }
    let [row] = &calibration.changed()[..] else { panic!("one key was taught") };
    assert!(row.state.len() < 8 << 10, "{} bytes", row.state.len());
    for stranger in 0..2 * KEYS_MAX {
        teach(&mut calibration, &key(&stranger.to_string()), &chat(10), 20);
    }
    assert_eq!(calibration.keys.len(), KEYS_MAX);
    assert!(calibration.by_method.len() < 10);
    assert_eq!(calibration.prompt(&key("known"), &chat(10)).observations, 300);
    assert_eq!(calibration.prompt(&key("0"), &chat(10)).observations, 0);
}

fn any_count() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..2_000, 0_u64..=2 * TOKENS_MAX, Just(u64::MAX)]
}

prop_compose! {
    fn any_prompt()(
        counts in prop::array::uniform8(any_count()),
        extrapolated in prop_oneof![9 => Just(0), 1 => any_count()],
        is_exact: bool,
        has_unseen in prop::bool::weighted(0.1),
        scaffold in 0_u64..40,
    ) -> Measured {
        let [tokens, text, messages, calls, tools, tool_count, schema, images] = counts;
        let rule = if is_exact { Rule::Exact } else { Rule::Scaled };
        let unseen = Measured { extrapolated, has_unseen, ..Measured::default() };
        Measured { tokens, method: "o200k", rule, text, messages, calls, tools, tool_count, schema, images, scaffold, ..unseen }
    }
}

proptest! {
    #[test]
    fn whatever_is_reported_bands_hold_predictions_and_numbers_stay_numbers(
        lessons in prop::collection::vec((any_prompt(), any_count(), any_count(), any_count(), 0..3_u8), 1..120),
    ) {
        let mut calibration = Calibration::default();
        for (prompt, reported, tokens, calls, model) in lessons {
            let key = key(&model.to_string());
            let generated = Generated { tokens, extrapolated: prompt.extrapolated, calls, method: "o200k", hidden: 0, rule: prompt.rule };
            let predictions = [
                calibration.prompt(&key, &prompt),
                calibration.answer(&key, generated, true),
                calibration.answer(&key, generated, false),
            ];
            for Prediction { tokens, low, high, .. } in predictions {
                prop_assert!(low <= tokens && tokens <= high);
            }
            calibration.learn(&key, Lesson { prompt: &prompt, prompt_tokens: reported, answer: Some((generated, reported)) });
        }
        let rows = calibration.changed();
        for row in &rows {
            prop_assert!(row.state.len() < 8 << 10 && !row.state.contains("null,null"), "{}", row.state);
            prop_assert!(Calibration::default().remember(row).is_ok(), "{}", row.state);
        }
    }
}
