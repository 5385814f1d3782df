//! What `deploy/` ships fits what the binary shows: every metric and label that a dashboard or an alert asks for exists.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Labels that Prometheus itself adds, or histograms have.
const EVERYWHERE: [&str; 3] = ["instance", "job", "le"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| unreachable!("cannot read `{}`: {error}", path.display()))
}

/// Every series of `src/metrics.rs` with its labels, read from the declaration: `name: Kind by ["label", …] in BUCKETS;`.
fn declared() -> BTreeMap<String, BTreeSet<String>> {
    let source = read("src/metrics.rs");
    let families = source.split_once("\nfamilies! {").unwrap().1.split_once("\n}").unwrap().0;
    let mut series = BTreeMap::new();
    for line in families.lines().map(str::trim).filter(|line| !line.starts_with("///")) {
        let Some((name, kind)) = line.split_once(": ") else { continue };
        let labels: BTreeSet<String> = kind.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        let suffixes: &[&str] = if kind.starts_with("Histogram") { &["_bucket", "_count", "_sum"] } else { &[""] };
        for suffix in suffixes {
            series.insert(format!("tokenmeter_{name}{suffix}"), labels.clone());
        }
    }
    assert!(series.len() > 20, "the declaration in src/metrics.rs is read wrong: {series:?}");
    series
}

/// The series that `text` names, each with the labels of the selector behind it.
fn named(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    for rest in text.split("tokenmeter_").skip(1) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
        let behind = rest.trim_start_matches(is_name);
        let selector = behind.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        // In JSON the quotes of a selector are escaped.
        let selector = selector.replace('\\', "");
        let labels = selector.split("\",").filter_map(|matcher| matcher.split(['=', '!']).next());
        let labels = labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        found.push((format!("tokenmeter_{name}"), labels.collect()));
    }
    found
}

fn check_names(text: &str, file: &str) {
    let declared = declared();
    let named = named(text);
    assert!(!named.is_empty(), "{file} names no metric");
    for (series, labels) in named {
        let Some(known) = declared.get(&series) else {
            unreachable!("{file}: `{series}` is not in src/metrics.rs; it has {:?}", declared.keys())
        };
        for label in labels {
            assert!(
                known.contains(&label) || EVERYWHERE.contains(&label.as_str()),
                "{file}: `{series}` has no label `{label}`, but {known:?}"
            );
        }
    }
    let known: BTreeSet<&str> = declared.values().flatten().map(String::as_str).chain(EVERYWHERE).collect();
    for list in text.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
        for label in list.split(',').map(str::trim) {
            assert!(known.contains(label), "{file}: nothing has a label `{label}`");
        }
    }
}

#[test]
fn alerts_ask_for_metrics_that_exist() {
    check_names(&read("deploy/prometheus/alerts.yml"), "alerts.yml");
    check_names(&read("deploy/prometheus/alerts_test.yml"), "alerts_test.yml");
}

#[test]
fn every_alert_says_what_it_means_and_is_tested() {
    let (alerts, tests) = (read("deploy/prometheus/alerts.yml"), read("deploy/prometheus/alerts_test.yml"));
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 8);
    for (name, alert) in names.iter().zip(alerts.split("- alert: ").skip(1)) {
        for part in ["severity: ", "summary: ", "description: "] {
            assert!(alert.contains(part), "{name} has no `{part}`");
        }
        let cases: Vec<&str> =
            tests.split("alertname: ").skip(1).filter(|case| case.starts_with(&format!("{name}\n"))).collect();
        assert!(
            cases.iter().any(|case| case.split("alertname").next().unwrap().contains("exp_labels")),
            "{name} never fires"
        );
        assert!(cases.iter().any(|case| case.contains("exp_alerts: []")) || cases.len() > 1, "{name} always fires");
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist_wherever_it_is_imported() {
    let text = read("deploy/grafana/tokenmeter.json");
    check_names(&text, "tokenmeter.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(dashboard["uid"], "tokenmeter");
    assert_eq!(dashboard["templating"]["list"][0]["name"], "datasource");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
        }
    }
}

#[test]
fn the_kpi_is_taken_from_the_ledger() {
    // A counter's increase over a month is extrapolated and loses restarts: never the month's number.
    for file in ["deploy/grafana/tokenmeter.json", "deploy/prometheus/alerts.yml"] {
        let text = read(file);
        assert!(!text.contains("[30d]") && !text.contains("[31d]"), "{file}");
    }
}
