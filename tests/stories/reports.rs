//! Reports: rows add up in every format, each figure is made of records, and reading disturbs nobody.

use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::stand::{PAYERS, Stand, upstreams};

/// Calls of two teams and of nobody, on every wire, some of which fail or say nothing of usage. How many.
async fn mixed_run(stand: &Stand) -> usize {
    let asks: Vec<Ask> = asks::whole().into_iter().chain(asks::streams()).chain([asks::embeddings()]).collect();
    for ask in &asks {
        stand.ask(ask).header("x-tokenmeter-team", "lab").header("x-tokenmeter-app", "a").send().await;
        stand.ask(ask).header("x-tokenmeter-team", "support-bot").fake("cached=2;words=30").send().await;
        stand.ask(ask).fake("no_usage").send().await;
        stand.ask(ask).header("x-tokenmeter-team", "lab").fake("status=500").send().await;
        stand.ask(ask).fake("model=nobody-knows-1").send().await;
    }
    5 * asks.len()
}

fn sum_of(rows: &Value, pointer: &str) -> i64 {
    rows.as_array().unwrap().iter().map(|row| row.pointer(pointer).unwrap().as_i64().unwrap_or(0)).sum()
}

#[tokio::test]
async fn rows_add_up_by_whatever_they_are_broken_down_and_to_the_records() {
    let stand = Stand::start();
    let count = mixed_run(&stand).await;
    let records = stand.records_when(count);
    let of_records =
        |kind: &str| records.iter().map(|record| record["tokens"][kind].as_i64().unwrap_or(0)).sum::<i64>();
    let cost: i64 = records.iter().map(|record| record["cost_nanousd"].as_i64().unwrap_or(0)).sum();
    let total = stand.report(&[])["total"].clone();
    for kind in ["input", "cache_read", "cache_write", "output", "reasoning"] {
        assert_eq!(total["tokens"][kind].as_i64().unwrap(), of_records(kind), "{kind}");
    }
    assert_eq!((&total["requests"], &total["cost_nanousd"]), (&json!(count), &json!(cost)));
    assert!(cost > 0);
    for by in ["team", "department,team,app", "model", "provider,operation", "upstream,key", "app,model,department"] {
        let report = stand.report(&["--by", by]);
        assert_eq!(report["by"], json!(by.split(',').collect::<Vec<_>>()));
        assert_eq!(report["total"], total, "{by}");
        for pointer in [
            "/requests",
            "/tokens/total",
            "/tokens/output",
            "/cost_nanousd",
            "/unpriced_tokens",
            "/provenance/estimated",
        ] {
            assert_eq!(
                sum_of(&report["rows"], pointer),
                report["total"].pointer(pointer).unwrap().as_i64().unwrap(),
                "{by} {pointer}"
            );
        }
    }
    let provenance = total["provenance"].as_object().unwrap().values().filter_map(Value::as_i64).sum::<i64>();
    assert_eq!(provenance, total["tokens"]["total"].as_i64().unwrap());
    stand.metric_becomes("tokenmeter_tokens_total", &[], total["tokens"]["total"].as_f64().unwrap()).await;
    stand.metric_becomes("tokenmeter_month_tokens", &[], total["tokens"]["total"].as_f64().unwrap()).await;
    assert!(stand.run(&["verify"]).contains(&format!("{count} records")));
}

#[tokio::test]
async fn table_csv_and_json_say_the_same() {
    let stand = Stand::start();
    stand.records_when(mixed_run(&stand).await);
    let report = stand.report(&[]);
    let text = stand.run(&["report", "--format", "csv"]);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let columns = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let column =
        |name: &str| columns.iter().position(|column| column == name).unwrap_or_else(|| panic!("{name}: {text}"));
    for (row, line) in report["rows"].as_array().unwrap().iter().zip(&rows) {
        assert_eq!(row["team"], line[column("team")]);
        assert_eq!(row["tokens"]["total"].to_string(), line[column("tokens.total")]);
        assert_eq!(row["provenance"]["estimated"].to_string(), line[column("provenance.estimated")]);
    }
    let total = report["total"]["tokens"]["total"].to_string();
    assert_eq!(rows.last().unwrap()[column("tokens.total")], total, "{text}");
    let table = stand.run(&["report"]);
    let digits: String = table
        .lines()
        .rev()
        .find(|line| line.to_lowercase().contains("total"))
        .unwrap()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    assert!(digits.contains(&total), "{table}");

    let written = stand.path().join("report.csv");
    stand.run(&["report", "--format", "csv", "--out", written.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(written).unwrap(), text);
    let of_server = stand.get(&format!("{}/api/v1/report", stand.admin())).await;
    assert_eq!(of_server.json(), report);
}

#[tokio::test]
async fn the_month_is_the_companys_and_another_month_is_empty() {
    for timezone in ["UTC", "Asia/Shanghai"] {
        let stand = Stand::with(|base| format!("[report]\ntimezone = \"{timezone}\"\n{}{PAYERS}", upstreams(base)));
        stand.ask(&asks::chat()).send().await;
        let ended = stand.only_record()["ended_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let month = ended.in_tz(timezone).unwrap().strftime("%Y-%m").to_string();
        let now = stand.report(&[]);
        assert_eq!((&now["timezone"], &now["month"]), (&json!(timezone), &json!(month)));
        assert_eq!(stand.report(&["--month", &month]), now);
        assert_eq!(now["total"]["requests"], 1);
        let other = stand.report(&["--month", "2025-01"]);
        assert_eq!((&other["rows"], &other["total"]["tokens"]["total"]), (&json!([]), &json!(0)));
    }
    let stand = Stand::stopped(upstreams);
    let wrong = stand.command(&["report", "--month", "2025-13"]).output().unwrap();
    assert!(!wrong.status.success());
}

#[tokio::test]
async fn a_call_has_its_list_price_and_an_unknown_model_none() {
    let stand = Stand::start();
    stand.ask(&asks::chat()).fake("input=1000;cached=400;output=50").send().await;
    stand.ask(&asks::chat()).fake("model=nobody-knows-1").send().await;
    stand.ask(&asks::chat()).fake("status=500").send().await;
    let records = stand.records_when(3);
    // 600 at 0.15 $, 400 cached at 0.075 $, 50 generated at 0.60 $ a million.
    assert_eq!(records[0]["cost_nanousd"], 600 * 150 + 400 * 75 + 50 * 600);
    assert!(records[0]["price"].as_str().unwrap().contains("openai/gpt-4o-mini"));
    for record in &records[1..] {
        assert_eq!((&record["cost_nanousd"], &record["price"]), (&Value::Null, &Value::Null), "{record:#}");
        assert!(record.as_object().unwrap().contains_key("cost_nanousd"));
    }
    let total = &stand.report(&[])["total"];
    assert_eq!((&total["cost_nanousd"], &total["unpriced_tokens"]), (&json!(150_000), &json!(9)));
    assert!(stand.run(&["prices", "show", "gpt-4o-mini"]).contains("0.15"));
}

#[tokio::test]
async fn records_are_filtered_by_time_and_team() {
    let stand = Stand::start();
    for team in ["lab", "support-bot", "lab", "lab"] {
        stand.ask(&asks::chat()).header("x-tokenmeter-team", team).send().await;
    }
    let records = stand.records_when(4);
    let times: Vec<&str> = records.iter().map(|record| record["ended_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted());
    let lines = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["records"].iter().chain(arguments).copied().collect();
        stand.run(&arguments).lines().count()
    };
    assert_eq!(lines(&["--team", "lab"]), 3);
    assert_eq!(lines(&["--from", times[1]]), 3, "from is within");
    assert_eq!(lines(&["--to", times[1]]), 1, "to is without");
    assert_eq!(lines(&["--from", times[1], "--to", times[3], "--team", "lab"]), 1);
    assert_eq!(lines(&["--format", "csv"]), 5);
}

#[tokio::test]
async fn reading_works_beside_the_server_and_without_it() {
    let mut stand = Stand::start();
    let count = mixed_run(&stand).await;
    stand.records_when(count);
    let views = |stand: &Stand| [&["records"][..], &["report", "--by", "model"], &["verify"]].map(|one| stand.run(one));
    let beside = views(&stand);
    stand.kill();
    assert_eq!(views(&stand), beside);
    stand.serve();
    assert_eq!(views(&stand), beside);
}
