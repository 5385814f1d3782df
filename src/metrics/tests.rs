use super::*;
use crate::ids::{NodeId, Provider, RecordId, UpstreamName};
use crate::operation::Operation;
use crate::record::{AttributedBy, CostByKind, Tags};
use crate::usage::{Anomaly, Provenance, Units};

fn record() -> Record {
    let at = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    Record {
        id: RecordId::new(at),
        started_at: at,
        ended_at: at,
        department: DepartmentId::parse("customer-service").unwrap(),
        team: TeamId::parse("support-bot").unwrap(),
        app: None,
        key: None,
        attributed_by: AttributedBy::Key,
        tags: Tags::new(),
        node: NodeId::parse("n1").unwrap(),
        seq: 1,
        upstream: UpstreamName::parse("openai").unwrap(),
        wire: "openai".to_owned(),
        provider: Provider::parse("openai").unwrap(),
        operation: Operation::Chat,
        model_requested: Some("gpt-5".to_owned()),
        model: Some("gpt-5".to_owned()),
        stream: true,
        status: Some(200),
        outcome: Outcome::Completed,
        provenance: Provenance::Reported,
        tokens: TokenCounts {
            input: Some(812),
            cache_read: Some(1024),
            output: Some(391),
            reasoning: Some(128),
            ..TokenCounts::default()
        },
        units: Units::new(),
        usage_raw: None,
        job: None,
        service_tier: None,
        estimate: None,
        delivered_output: None,
        anomaly: None,
        cost_nanousd: Some(NanoUsd::new(4_890_250)),
        cost_nanousd_by_kind: CostByKind::default(),
        price: None,
        time_to_first_byte_ms: Some(412),
        duration_ms: 3_377,
    }
}

/// The value of the series written exactly so.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn assert_value(metrics: &Metrics, series: &str, expected: Option<f64>) {
    let text = metrics.render();
    assert_eq!(value(&text, series), expected, "{series}\n{text}");
}

fn sum_of(text: &str, family: &str) -> u64 {
    let prefix = format!("{family}{{");
    text.lines()
        .filter(|line| line.starts_with(&prefix))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_record_moves_its_own_series_by_its_own_amounts() {
    let metrics = Metrics::new(Limits::default());
    metrics.record(&record());
    metrics.record(&record());
    let payer = r#"department="customer-service""#;
    let who = r#"model="gpt-5",provenance="reported",provider="openai",team="support-bot"}"#;
    let tokens = |kind: &str| format!(r#"tokenmeter_tokens_total{{{payer},kind="{kind}",{who}"#);
    assert_value(&metrics, &tokens("input"), Some(1624.0));
    assert_value(&metrics, &tokens("cache_read"), Some(2048.0));
    assert_value(&metrics, &tokens("cache_write"), Some(0.0));
    assert_value(&metrics, &tokens("output"), Some(782.0));
    let who = r#"model="gpt-5",provider="openai",team="support-bot"}"#;
    assert_value(&metrics, &format!("tokenmeter_reasoning_tokens_total{{{payer},{who}"), Some(256.0));
    assert_value(&metrics, &format!("tokenmeter_cost_usd_total{{{payer},{who}"), Some(0.009_780_5));
    assert_value(
        &metrics,
        r#"tokenmeter_requests_total{code="200",operation="chat",outcome="completed",team="support-bot",upstream="openai"}"#,
        Some(2.0),
    );
    assert_value(
        &metrics,
        r#"tokenmeter_request_duration_seconds_sum{operation="chat",upstream="openai"}"#,
        Some(6.754),
    );
    assert!(!metrics.render().contains("tokenmeter_unpriced_tokens_total{"));
    assert_eq!(sum_of(&metrics.render(), "tokenmeter_tokens_total"), 2 * (812 + 1024 + 391));
}

#[test]
fn an_unknown_price_is_no_cost_of_zero() {
    let metrics = Metrics::new(Limits::default());
    metrics.record(&Record { cost_nanousd: None, ..record() });
    assert_value(&metrics, r#"tokenmeter_unpriced_tokens_total{model="gpt-5",provider="openai"}"#, Some(2227.0));
    assert!(!metrics.render().contains("tokenmeter_cost_usd_total{"));
}

#[test]
fn provenance_is_the_records_own() {
    let metrics = Metrics::new(Limits::default());
    for provenance in [Provenance::Reported, Provenance::Partial, Provenance::Estimated] {
        metrics.record(&Record { provenance, ..record() });
    }
    for provenance in ["reported", "partial", "estimated"] {
        let text = metrics.render();
        assert_eq!(text.matches(&format!(r#"provenance="{provenance}""#)).count(), 4, "{text}");
    }
}

#[test]
fn a_model_that_consumed_nothing_is_no_label() {
    let metrics = Metrics::new(Limits::default());
    metrics.record(&Record {
        model: Some("made-up".to_owned()),
        tokens: TokenCounts::default(),
        cost_nanousd: None,
        status: Some(404),
        outcome: Outcome::UpstreamError,
        provenance: Provenance::None,
        ..record()
    });
    let text = metrics.render();
    assert!(!text.contains("made-up"), "{text}");
    assert!(text.contains(r#"code="404""#));
}

#[test]
fn beyond_its_bound_a_label_is_other_and_counted_and_nothing_is_lost() {
    let metrics = Metrics::new(Limits { teams: 3, models: 2, ..Limits::default() });
    for number in 0..10 {
        for _ in 0..2 {
            metrics.record(&Record {
                team: TeamId::parse(&format!("team-{number}")).unwrap(),
                model: Some(format!("model-{number}")),
                ..record()
            });
        }
    }
    let text = metrics.render();
    assert_eq!(sum_of(&text, "tokenmeter_tokens_total"), 20 * 2227);
    assert_eq!(value(&text, r#"tokenmeter_label_overflow_total{label="team"}"#), Some(14.0), "{text}");
    assert_eq!(value(&text, r#"tokenmeter_label_overflow_total{label="model"}"#), Some(16.0), "{text}");
    assert_eq!(value(&text, r#"tokenmeter_label_overflow_total{label="upstream"}"#), Some(0.0), "{text}");
    assert!(text.contains(r#"model="model-1""#) && !text.contains(r#"model="model-2""#), "{text}");
}

#[test]
fn thousands_of_made_up_models_leave_the_series_bounded() {
    let metrics = Metrics::new(Limits::default());
    for number in 0..20_000 {
        metrics.record(&Record { model: Some(format!("model-{number}")), ..record() });
    }
    metrics.record(&Record { model: Some("x\ny".to_owned()), ..record() });
    let text = metrics.render();
    assert_eq!(text.lines().filter(|line| line.starts_with("tokenmeter_tokens_total{")).count(), 501 * 4);
    assert_eq!(sum_of(&text, "tokenmeter_tokens_total"), 20_001 * 2227);
}

#[test]
fn an_orphans_time_is_not_a_calls_time() {
    let metrics = Metrics::new(Limits::default());
    metrics.record(&Record { outcome: Outcome::Orphaned, status: None, ..record() });
    let text = metrics.render();
    assert_eq!(
        value(&text, r#"tokenmeter_request_duration_seconds_count{operation="chat",upstream="openai"}"#),
        Some(0.0)
    );
    assert!(text.contains(r#"code="none""#));
}

#[test]
fn a_team_that_left_the_month_is_shown_no_longer() {
    let row = |team: &str, cost| MonthRow {
        department: DepartmentId::parse("d").unwrap(),
        team: TeamId::parse(team).unwrap(),
        tokens: TokenCounts { input: Some(7), output: Some(3), ..TokenCounts::default() },
        cost,
    };
    let metrics = Metrics::new(Limits::default());
    metrics.set_month(&[row("a", Some(NanoUsd::new(1_500_000_000))), row("b", None)]);
    assert_value(&metrics, r#"tokenmeter_month_tokens{department="d",kind="input",team="a"}"#, Some(7.0));
    assert_value(&metrics, r#"tokenmeter_month_cost_usd{department="d",team="a"}"#, Some(1.5));
    assert_value(&metrics, r#"tokenmeter_month_cost_usd{department="d",team="b"}"#, None);
    metrics.set_month(&[row("b", None)]);
    assert!(!metrics.render().contains(r#"team="a""#));
    metrics.set_month(&[]);
    assert!(!metrics.render().contains("tokenmeter_month_tokens{"));
}

#[test]
fn teams_beyond_the_bound_share_one_month_row() {
    let metrics = Metrics::new(Limits { teams: 1, ..Limits::default() });
    let rows = ["a", "b", "c"].map(|team| MonthRow {
        department: DepartmentId::parse("d").unwrap(),
        team: TeamId::parse(team).unwrap(),
        tokens: TokenCounts { input: Some(5), ..TokenCounts::default() },
        cost: Some(NanoUsd::new(1_000_000_000)),
    });
    metrics.set_month(&rows);
    assert_value(&metrics, r#"tokenmeter_month_tokens{department="d",kind="input",team="other"}"#, Some(10.0));
    assert_value(&metrics, r#"tokenmeter_month_cost_usd{department="d",team="other"}"#, Some(2.0));
}

#[test]
fn what_alerts_watch_is_there_before_the_first_failure() {
    let metrics = Metrics::new(Limits::default());
    metrics.expect_refusals(&["unknown_key"]);
    for series in [
        r#"tokenmeter_refused_total{reason="unknown_key"}"#,
        "tokenmeter_journal_failures_total",
        "tokenmeter_ledger_failures_total",
        "tokenmeter_clock_steps_back_total",
        "tokenmeter_ledger_lag_seconds",
        "tokenmeter_inflight_requests",
        "tokenmeter_overhead_seconds_count",
        "tokenmeter_journal_append_seconds_count",
        r#"tokenmeter_label_overflow_total{label="model"}"#,
    ] {
        assert_value(&metrics, series, Some(0.0));
    }
    metrics.refused("unknown_key");
    metrics.record(&Record { anomaly: Some(Anomaly::TotalDiffers), ..record() });
    assert_value(&metrics, r#"tokenmeter_refused_total{reason="unknown_key"}"#, Some(1.0));
    assert_value(&metrics, r#"tokenmeter_anomalies_total{anomaly="total_differs"}"#, Some(1.0));
}

#[test]
fn a_call_is_in_flight_until_its_guard_goes() {
    let metrics = Metrics::new(Limits::default());
    let guards = [metrics.inflight(), metrics.inflight()];
    assert_value(&metrics, "tokenmeter_inflight_requests", Some(2.0));
    drop(guards);
    assert_value(&metrics, "tokenmeter_inflight_requests", Some(0.0));
}

#[test]
fn every_family_says_what_it_is() {
    let metrics = Metrics::new(Limits::default());
    metrics.record(&record());
    let text = metrics.render();
    assert!(text.contains("# HELP tokenmeter_tokens_total Tokens consumed, by kind"), "{text}");
    assert!(text.contains("# HELP tokenmeter_build_info Always 1;"), "{text}");
}
