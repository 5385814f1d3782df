use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::attribution::headers::{check_path, strip, strip_query, subprotocol_with_key, swap_in_subprotocols};

fn secret(letter: char) -> String {
    format!("tm_{}", letter.to_string().repeat(keys::SECRET_CHARS))
}

fn key(letter: char, app: Option<&str>) -> Key {
    let app = app.map(|app| AppId::parse(app).unwrap());
    Key::of_secret(&SecretString::from(secret(letter)), TeamId::parse("support-bot").unwrap(), app)
}

fn attribution(change: impl FnOnce(&mut Settings)) -> Attribution {
    let mut settings = Settings {
        trust_headers: true,
        teams: vec![
            Team { id: TeamId::parse("support-bot").unwrap(), department: DepartmentId::parse("service").unwrap() },
            Team { id: TeamId::parse("search").unwrap(), department: DepartmentId::parse("web").unwrap() },
        ],
        keys: vec![key('a', None), key('b', Some("chatbot")), Key { is_revoked: true, ..key('r', None) }],
        ..Settings::default()
    };
    change(&mut settings);
    let keys = Arc::new(KeySet::new(settings.keys.clone()));
    Attribution::new(settings, keys)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn of(attribution: &Attribution, pairs: &[(&'static str, &str)], query: Option<&str>) -> Result<String, Refusal> {
    let who = attribution.of(&headers(pairs), query)?;
    let or_dash = |app: Option<AppId>| app.map_or("-".to_owned(), |app| app.to_string());
    Ok(format!("{}/{}/{} by {}", who.department, who.team, or_dash(who.app), who.attributed_by.as_str()))
}

#[test]
fn a_key_decides_wherever_the_sdk_puts_it() {
    let rules = attribution(|_| {});
    let bearer = format!("Bearer {}", secret('a'));
    let lower = format!("bearer  {}", secret('a'));
    let in_query = format!("alt=sse&key={}", secret('a'));
    let plain = secret('a');
    let expected = Ok("service/support-bot/- by key".to_owned());
    assert_eq!(of(&rules, &[("authorization", &bearer)], None), expected);
    assert_eq!(of(&rules, &[("authorization", &lower)], None), expected);
    for name in ["x-api-key", "api-key", "x-goog-api-key", "authorization"] {
        assert_eq!(of(&rules, &[(name, &plain)], None), expected, "{name}");
    }
    assert_eq!(of(&rules, &[], Some(&in_query)), expected);
    // The same key twice is one key.
    assert_eq!(of(&rules, &[("authorization", &bearer), ("x-api-key", &plain)], Some(&in_query)), expected);
}

#[test]
fn a_header_adds_an_app_to_a_key_but_never_another_team() {
    let rules = attribution(|_| {});
    let claims = [("x-tokenmeter-team", "search"), ("x-tokenmeter-app", "mine")];
    let with = |letter| {
        let key = secret(letter);
        of(&rules, &[("x-api-key", &key), claims[0], claims[1]], None)
    };
    assert_eq!(with('a'), Ok("service/support-bot/mine by key".to_owned()));
    assert_eq!(with('b'), Ok("service/support-bot/chatbot by key".to_owned()));
}

#[test]
fn a_key_that_is_not_good_is_refused_whatever_on_unknown_says() {
    for on_unknown in [OnUnknown::Accept, OnUnknown::Refuse] {
        let rules = attribution(|settings| settings.on_unknown = on_unknown);
        let with = |key: &str| of(&rules, &[("x-api-key", key), ("x-tokenmeter-team", "search")], None);
        assert_eq!(with(&secret('z')), Err(Refusal::UnknownKey));
        assert_eq!(with(&secret('r')), Err(Refusal::RevokedKey));
        assert_eq!(with("tm_short"), Err(Refusal::MalformedKey));
        assert_eq!(with(&format!("{}x", secret('a'))), Err(Refusal::MalformedKey));
        let not_ascii = http::HeaderValue::from_bytes(b"Bearer tm_\xff").unwrap();
        let refused = rules.of(&HeaderMap::from_iter([(http::header::AUTHORIZATION, not_ascii)]), None);
        assert_eq!(refused, Err(Refusal::MalformedKey));
    }
    let rules = attribution(|_| {});
    let (one, two) = (secret('a'), format!("key={}", secret('b')));
    assert_eq!(of(&rules, &[("x-api-key", &one)], Some(&two)), Err(Refusal::TwoKeys));
}

#[test]
fn a_clients_own_credential_is_no_virtual_key() {
    let rules = attribution(|_| {});
    for own in ["Bearer sk-proj-abc", "Basic dG1fYWJj", "sk-ant-tm_abc", ""] {
        assert_eq!(
            of(&rules, &[("authorization", own)], Some("key=AIza&monkey=tm_x")),
            Ok("unattributed/unattributed/- by none".to_owned())
        );
    }
}

#[test]
fn headers_are_believed_only_where_they_are_trusted() {
    let claims = [("x-tokenmeter-team", "search"), ("x-tokenmeter-app", "a"), ("x-tokenmeter-tags", "env=prod")];
    assert_eq!(of(&attribution(|_| {}), &claims, None), Ok("web/search/a by header".to_owned()));
    let wary = attribution(|settings| settings.trust_headers = false);
    let who = wary.of(&headers(&claims), None).unwrap();
    assert_eq!(who.attributed_by, AttributedBy::None);
    assert_eq!((who.team.as_str(), who.app, who.tags.len()), ("unattributed", None, 0));
    let strict = attribution(|settings| {
        settings.trust_headers = false;
        settings.on_unknown = OnUnknown::Refuse;
    });
    assert_eq!(of(&strict, &claims, None), Err(Refusal::UnknownCaller));
}

#[test]
fn an_unknown_team_is_unattributed_unless_no_team_is_configured() {
    let known = attribution(|_| {});
    let open = attribution(|settings| settings.teams.clear());
    let strict = attribution(|settings| settings.on_unknown = OnUnknown::Refuse);
    let claim = |team| [("x-tokenmeter-team", team)];
    assert_eq!(of(&known, &claim("new"), None), Ok("unattributed/unattributed/- by none".to_owned()));
    assert_eq!(of(&strict, &claim("new"), None), Err(Refusal::UnknownCaller));
    assert_eq!(of(&open, &claim("new"), None), Ok("unattributed/new/- by header".to_owned()));
    for bad in ["not an id", "", "unattributed", "-x"] {
        assert_eq!(of(&open, &claim(bad), None), Ok("unattributed/unattributed/- by none".to_owned()), "{bad}");
    }
    let twice = [("x-tokenmeter-team", "one"), ("x-tokenmeter-team", "two")];
    assert_eq!(of(&open, &twice, None), Ok("unattributed/unattributed/- by none".to_owned()));
}

#[test]
fn a_key_outlives_its_teams_configuration() {
    let rules = attribution(|settings| settings.teams.retain(|team| team.id.as_str() == "search"));
    let key = secret('a');
    assert_eq!(of(&rules, &[("x-api-key", &key)], None), Ok("unattributed/support-bot/- by key".to_owned()));
}

#[test]
fn a_key_in_the_place_of_a_team_or_an_app_is_not_recorded() {
    let rules = attribution(|settings| settings.teams.clear());
    let claims = [("x-tokenmeter-team", secret('a')), ("x-tokenmeter-app", secret('a'))];
    let claims = claims.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(of(&rules, &claims, None), Ok("unattributed/unattributed/- by none".to_owned()));
}

#[test]
fn bad_tags_are_dropped_and_refuse_nothing() {
    let rules = attribution(|_| {});
    let tags = |text: &str| rules.of(&headers(&[("x-tokenmeter-tags", text)]), None).unwrap().tags;
    let long = "x".repeat(65);
    let carrying = format!("k={}", secret('q'));
    for bad in ["", "novalue", "=x", ",,,", &format!("{long}=v"), &format!("k={long}"), &carrying] {
        assert!(tags(bad).is_empty(), "{bad}");
    }
    let good = tags(" env = prod ,bad,env=again,empty=,a=b=c");
    assert_eq!(format!("{good:?}"), r#"{"a": "b=c", "empty": "", "env": "prod"}"#);
    let many: Vec<String> = (0..40).map(|number| format!("k{number:02}=v")).collect();
    assert_eq!(tags(&many.join(",")).len(), 16);
}

#[test]
fn nothing_of_ours_leaves() {
    let (key, cookie) = (secret('a'), format!("a=1; session={}", secret('b')));
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("user:{key}")));
    let mut map = headers(&[
        ("x-tokenmeter-team", "search"),
        ("x-tokenmeter-anything", "1"),
        ("authorization", "Bearer tm_short"),
        ("authorization", "Bearer sk-own"),
        ("x-api-key", &key),
        ("cookie", &cookie),
        ("authorization", &basic),
        ("cookie", "theme=dark"),
        ("user-agent", "atm_client/1.0 tm_x"),
    ]);
    strip(&mut map);
    let mut left: Vec<_> = map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(left, ["authorization: Bearer sk-own", "cookie: theme=dark", "user-agent: atm_client/1.0 tm_x"]);
}

#[test]
fn a_key_among_a_browsers_subprotocols_is_found_and_swapped_in_its_place() {
    let rules = attribution(|_| {});
    let key = secret('a');
    let offered = format!("realtime,openai-insecure-api-key.{key}, openai-beta.realtime-v1");
    let expected = Ok("service/support-bot/- by key".to_owned());
    assert_eq!(of(&rules, &[("sec-websocket-protocol", &offered)], None), expected);
    assert_eq!(of(&rules, &[("sec-websocket-protocol", &key), ("x-api-key", &key)], None), expected);
    let swapped = swap_in_subprotocols(&offered, Some("sk-ours"));
    assert_eq!(swapped.as_deref(), Some("realtime, openai-insecure-api-key.sk-ours, openai-beta.realtime-v1"));
    assert_eq!(swap_in_subprotocols(&offered, None).as_deref(), Some("realtime, openai-beta.realtime-v1"));
    assert_eq!(subprotocol_with_key(&offered), Some(format!("openai-insecure-api-key.{key}").as_str()));
    // What is there without a key is a credential all the same, and two are one too many.
    let own = "openai-insecure-api-key.sk-own";
    assert_eq!(swap_in_subprotocols(own, Some("sk-ours")).as_deref(), Some(""));
    assert_eq!(swap_in_subprotocols("realtime,tm", Some("sk-ours")), None);
    assert_eq!(of(&rules, &[("sec-websocket-protocol", own)], None), Ok("unattributed/unattributed/- by none".into()));
}

#[test]
fn a_path_with_a_key_goes_nowhere_and_any_other_does() {
    let key = secret('a');
    for path in [format!("/v1/{key}"), format!("/{key}/x"), format!("/v1/{}", key.replacen("tm", "%74m", 1))] {
        assert_eq!(check_path(&path), Err(Refusal::MisplacedKey), "{path}");
    }
    for path in ["/v1/files/tm_short", "/v1/atm_list", "/%zz/%74m_", key.trim_start_matches('t')] {
        assert_eq!(check_path(path), Ok(()), "{path}");
    }
}

#[test]
fn a_query_loses_its_virtual_key_and_nothing_else() {
    let key = secret('a');
    let stripped = |query: &str| strip_query(query).map(Cow::into_owned);
    assert_eq!(stripped("alt=sse&%24x=a%20b&key=AIza"), Some("alt=sse&%24x=a%20b&key=AIza".to_owned()));
    assert_eq!(stripped(&format!("alt=sse&key={key}&x")), Some("alt=sse&x".to_owned()));
    assert_eq!(stripped(&format!("key={key}")), None);
    assert_eq!(stripped("key=tm_short&a=1"), Some("a=1".to_owned()));
    assert_eq!(stripped(&format!("token={key}&&a=1")), Some("&a=1".to_owned()));
    assert_eq!(stripped(""), Some(String::new()));
}

#[test]
fn a_refusal_never_repeats_the_key() {
    for refusal in Refusal::ALL {
        assert!(!refusal.to_string().is_empty() && !refusal.code().contains(' '));
    }
    let shown = format!("{:?}", attribution(|_| {}));
    assert!(!shown.contains(SecretString::from(secret('a')).expose_secret()));
}

proptest! {
    #[test]
    fn a_key_leaves_nowhere_whatever_stands_around_it(
        name in prop::sample::select(vec!["authorization", "x-api-key", "cookie", "referer", "x-anything", "user-agent"]),
        (before, after) in ("[ -~]{0,12}", "[ -~]{0,12}"),
        (other, bytes) in ("[a-z]{1,5}", prop::collection::vec(0x20..0x7f_u8, 0..20)),
    ) {
        let key = secret('k');
        let mut map = headers(&[("x-other", "kept"), (name, &format!("{before}{key}{after}"))]);
        map.append("x-bytes", http::HeaderValue::from_bytes(&bytes).unwrap());
        let kept_bytes = !bytes.windows(3).any(|three| three == b"tm_");
        strip(&mut map);
        prop_assert!(map.values().all(|value| !value.as_bytes().windows(key.len()).any(|part| part == key.as_bytes())));
        prop_assert_eq!(map.get("x-other").unwrap(), "kept");
        prop_assert!(!kept_bytes || map.contains_key("x-bytes"));
        let query = format!("{before}&{other}={key}{after}&{other}=1");
        let left = strip_query(&query).unwrap().into_owned();
        prop_assert!(!left.contains(&key) && left.ends_with("=1"), "{}", left);
        // Nothing of it is refused by falling over.
        drop(attribution(|_| {}).of(&map, Some(&query)));
    }
}
