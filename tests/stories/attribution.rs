//! Attribution: who pays is what the key says, else what a trusted header says, else nobody we know.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::stand::{CREDENTIAL, PATIENCE, PAYERS, Stand, upstreams};

/// Department, team, app and evidence of a record.
fn payer(record: &Value) -> [&str; 4] {
    ["department", "team", "app", "attributed_by"].map(|name| record[name].as_str().unwrap_or("-"))
}

#[tokio::test]
async fn a_trusted_header_names_team_app_and_tags_and_the_team_its_department() {
    let stand = Stand::start();
    let named = stand.ask(&asks::chat()).header("x-tokenmeter-team", "lab").header("x-tokenmeter-app", "notebook");
    named.header("x-tokenmeter-tags", "env=prod, run=7,bad,=worse").send().await;
    stand.ask(&asks::chat()).header("x-tokenmeter-team", "unheard-of").send().await;
    stand.ask(&asks::chat()).send().await;
    let records = stand.records_when(3);
    assert_eq!(payer(&records[0]), ["research", "lab", "notebook", "header"]);
    assert_eq!(records[0]["tags"], json!({"env": "prod", "run": "7"}));
    assert_eq!(payer(&records[1]), ["unattributed", "unattributed", "-", "none"]);
    assert_eq!(payer(&records[2]), ["unattributed", "unattributed", "-", "none"]);
}

#[tokio::test]
async fn a_key_beats_a_header_which_may_still_add_app_and_tags() {
    let stand = Stand::start();
    let key = stand.key("support-bot").await;
    let call = stand.ask(&asks::messages()).header("x-api-key", &key).header("x-tokenmeter-team", "lab");
    call.header("x-tokenmeter-app", "chatbot").header("x-tokenmeter-tags", "env=test").send().await;
    let record = stand.only_record();
    assert_eq!(payer(&record), ["customer-service", "support-bot", "chatbot", "key"]);
    assert_eq!(record["tags"], json!({"env": "test"}));
    assert!(record["key"].as_str().unwrap().starts_with("k_"));
}

#[tokio::test]
async fn without_configured_teams_any_well_formed_team_is_taken() {
    let stand = Stand::with(upstreams);
    stand.ask(&asks::chat()).header("x-tokenmeter-team", "anyone-1").send().await;
    stand.ask(&asks::chat()).header("x-tokenmeter-team", "not a team!").send().await;
    let records = stand.records_when(2);
    assert_eq!(payer(&records[0]), ["unattributed", "anyone-1", "-", "header"]);
    assert_eq!(payer(&records[1]), ["unattributed", "unattributed", "-", "none"]);
}

#[tokio::test]
async fn headers_that_are_not_trusted_say_nothing() {
    let stand = Stand::with(|base| format!("[attribution]\ntrust_headers = false\n{}{PAYERS}", upstreams(base)));
    let call = stand.ask(&asks::chat()).header("x-tokenmeter-team", "lab").header("x-tokenmeter-app", "notebook");
    call.header("x-tokenmeter-tags", "env=prod").send().await;
    let record = stand.only_record();
    assert_eq!(payer(&record), ["unattributed", "unattributed", "-", "none"]);
    assert!(record.get("tags").is_none_or(|tags| *tags == json!({})), "{record:#}");
}

#[tokio::test]
async fn keys_made_and_revoked_beside_the_server_work_and_stop_within_a_second() {
    let stand = Stand::start();
    let key = stand.run(&["keys", "new", "--team", "lab", "--app", "notebook"]).trim().to_owned();
    takes_within_a_second(&stand, &key, 200).await;
    let list = stand.run(&["keys", "list"]);
    assert!(!list.contains(&key), "the secret is printed once");
    let id = list.lines().find(|line| line.contains("notebook")).unwrap().split_whitespace().next().unwrap();
    stand.run(&["keys", "revoke", id]);
    takes_within_a_second(&stand, &key, 401).await;
    let record = stand.records().remove(0);
    assert_eq!(payer(&record), ["research", "lab", "notebook", "key"]);
    assert_eq!(record["key"], id);
    assert!(!stand.command(&["keys", "new", "--team", "nobody"]).output().unwrap().status.success());
}

async fn takes_within_a_second(stand: &Stand, key: &str, status: u16) {
    let begun = Instant::now();
    while stand.ask(&asks::chat()).header("api-key", key).send().await.status != status {
        assert!(begun.elapsed() < PATIENCE, "the server does not learn of it");
    }
    // Twice the promise: the machine may be busy with other stories.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_key_is_found_wherever_sdks_put_it_and_never_leaves() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let bearer = format!("Bearer {key}");
    let in_query = format!("{}?alt=sse&key={key}&x=1", asks::generate().path);
    for ask in [asks::chat(), asks::messages(), asks::generate()] {
        for (name, value) in
            [("authorization", &bearer), ("x-api-key", &key), ("api-key", &key), ("x-goog-api-key", &key)]
        {
            assert_eq!(stand.ask(&ask).header(name, value).send().await.status, 200);
        }
    }
    assert_eq!(stand.call(&in_query).json(&asks::generate().body).send().await.status, 200);
    let twice = stand.ask(&asks::chat()).header("authorization", &bearer).header("x-api-key", &key);
    assert_eq!(twice.header("x-odd", &format!("my key is {key}")).send().await.status, 200);

    let received = stand.fake.requests();
    assert_eq!(received.len(), 14);
    for request in &received {
        let head = request.to_json().to_string();
        assert!(!head.contains("tm_"), "{head}");
        assert_eq!(head.matches(CREDENTIAL).count(), 1, "{head}");
    }
    assert_eq!(received[0].header("authorization").unwrap(), format!("Bearer {CREDENTIAL}"));
    assert_eq!(received[4].header("x-api-key"), Some(CREDENTIAL));
    assert_eq!(received[8].header("x-goog-api-key"), Some(CREDENTIAL));
    assert_eq!(received[12].target, "/v1beta/models/gemini-2.5-flash:generateContent?alt=sse&x=1");
    for record in stand.records_when(14) {
        assert_eq!(payer(&record), ["research", "lab", "-", "key"]);
    }
}

#[tokio::test]
async fn the_credential_goes_where_the_client_put_its_key_if_either_wire_looks_there() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let bearer = format!("Bearer {key}");
    for (path, name, value, place) in [
        // Gemini's OpenAI-compatible path, Anthropic's dialect elsewhere.
        ("/gemini/v1beta/openai/chat/completions", "authorization", &bearer, "authorization"),
        ("/gemini/v1beta/openai/chat/completions", "x-goog-api-key", &key, "x-goog-api-key"),
        ("/gemini/v1beta/openai/chat/completions", "api-key", &key, "x-goog-api-key"),
        ("/openai/anthropic/v1/messages", "x-api-key", &key, "x-api-key"),
        ("/openai/anthropic/v1/messages", "authorization", &bearer, "authorization"),
        ("/anthropic/v1/messages", "authorization", &bearer, "x-api-key"),
        ("/openai/v1/chat/completions", "x-api-key", &key, "authorization"),
    ] {
        stand.fake.forget();
        // Whatever credential stands beside it goes: two are one too many.
        let call =
            stand.call(path).json(&json!({"model": "m"})).header(name, value).header("x-amz-security-token", "t");
        let call = if name == "authorization" { call } else { call.header("authorization", "Bearer sk-dummy") };
        assert_eq!(call.send().await.status, 200);
        let asked = stand.fake.requests().remove(0);
        let credential = if place == "authorization" { format!("Bearer {CREDENTIAL}") } else { CREDENTIAL.to_owned() };
        assert_eq!(asked.header(place), Some(credential.as_str()), "{path} {name}");
        let places = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
        assert_eq!(places.iter().filter(|name| asked.header(name).is_some()).count(), 1, "{path} {name}");
    }
    let in_query = format!("{}?key=AIza-own&x=1", asks::generate().path);
    stand.call(&in_query).json(&asks::generate().body).header("x-goog-api-key", &key).send().await;
    assert!(stand.fake.requests()[1].target.ends_with(":generateContent?x=1"));
}

#[tokio::test]
async fn a_key_in_the_path_is_refused_and_hidden_ones_go_nowhere() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let encoded = key.replacen('_', "%5f", 1);
    for path in [format!("/openai/v1/{key}/chat/completions"), format!("/anthropic/v1/messages/{encoded}")] {
        let reply = stand.call(&path).json(&json!({})).send().await;
        let told = reply.text();
        assert_eq!(reply.status, 401);
        assert!(told.contains("misplaced_key") || told.contains("authentication_error"), "{told}");
        assert!(told.contains("path") && !told.contains(&key), "{told}");
    }
    assert!(stand.fake.requests().is_empty());
    let path = format!("/openai/v1/models?token={key}&key={encoded}&a=1");
    stand.call(&path).method(Method::GET).header("x-odd", &encoded).header("cookie", &key).send().await;
    let asked = stand.fake.requests().remove(0);
    assert_eq!(asked.target, "/v1/models?a=1");
    assert!(asked.header("x-odd").is_none() && asked.header("cookie").is_none());
    assert!((stand.metric("tokenmeter_refused_total", &["misplaced_key"]).await - 2.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn what_its_client_signed_passes_as_it_was_signed() {
    let stand = Stand::start();
    let signature =
        "AWS4-HMAC-SHA256 Credential=AKID/20261122/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0a";
    let ask = asks::chat_stream();
    for (name, value) in
        [("authorization", signature), ("x-amz-content-sha256", "e3b0"), ("authorization", "Bearer ya29.a0Ad-own")]
    {
        stand.fake.forget();
        let reply = stand.ask(&ask).header(name, value).header("x-amz-date", "20261122T130000Z").send().await;
        assert_eq!(reply.status, 200);
        let asked = stand.fake.requests().remove(0);
        assert_eq!((asked.header(name), asked.header("x-amz-date")), (Some(value), Some("20261122T130000Z")));
        let is_spliced = String::from_utf8(asked.body).unwrap().contains("include_usage");
        assert_eq!(is_spliced, value.starts_with("Bearer"), "a signed body is not ours to put anything into");
    }
}

#[tokio::test]
async fn the_clients_own_credential_passes_through_and_ours_is_not_spent() {
    let stand = Stand::start();
    stand.ask(&asks::chat()).header("authorization", "Bearer sk-of-the-client").send().await;
    stand.ask(&asks::messages()).header("x-api-key", "sk-ant-of-the-client").send().await;
    let in_query =
        Ask { path: "/gemini/v1beta/models/gemini-2.5-flash:generateContent?key=AIza-own", ..asks::generate() };
    stand.ask(&in_query).send().await;
    stand.ask(&asks::chat()).send().await;
    stand.ask(&Ask { path: "/keyless/v1/chat/completions", ..asks::chat() }).header("api-key", "own").send().await;
    let received = stand.fake.requests();
    assert_eq!(received[0].header("authorization"), Some("Bearer sk-of-the-client"));
    assert_eq!(received[1].header("x-api-key"), Some("sk-ant-of-the-client"));
    assert!(received[2].target.ends_with("?key=AIza-own"));
    assert_eq!(received[3].header("authorization"), None, "an anonymous caller spends nothing of ours");
    assert_eq!(received[4].header("api-key"), Some("own"));
    assert!(received.iter().all(|request| !format!("{:?}", request.headers).contains(CREDENTIAL)));
}

#[tokio::test]
async fn one_base_url_serves_every_sdk() {
    let stand = Stand::start();
    for ask in [asks::messages(), asks::generate()] {
        assert_eq!(stand.call(ask.provider_path()).json(&ask.body).send().await.status, 200);
    }
    let records = stand.records_when(2);
    assert_eq!((&records[0]["upstream"], &records[1]["upstream"]), (&json!("anthropic"), &json!("gemini")));
}
