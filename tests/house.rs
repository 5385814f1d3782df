//! The house stays as ARCHITECTURE.md draws it: which room may know which.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floors from the ground up; a room knows its own floor and those below.
const FLOORS: &[(&str, &[&str])] = &[
    ("words", &["ids", "money", "operation", "period", "problem", "record", "usage"]),
    ("rules", &["framing", "pricing", "tokenizer", "wires"]),
    ("records", &["journal", "ledger", "metrics", "report"]),
    ("the meter", &["meter"]),
    ("faces", &["admin", "attribution", "proxy"]),
    ("wiring", &["app", "cli", "config", "logging"]),
];

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The room a file belongs to: the first part of its path.
fn room_of(file: &Path) -> String {
    let first = file.strip_prefix(source()).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The rooms that a text names as `crate::room`; comments and tests do not count.
fn named_in(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.chars().take_while(|one| one.is_ascii_lowercase() || *one == '_').collect())
        .filter(|name: &String| !name.is_empty())
        .collect()
}

#[test]
fn arrows_go_one_way() {
    let floor_of: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, (_, rooms))| rooms.iter().map(move |room| (*room, floor)))
        .collect();
    let mut wrong = Vec::new();
    for file in source_files(&source()) {
        let room = room_of(&file);
        let Some(floor) = floor_of.get(room.as_str()) else { continue };
        for other in named_in(&std::fs::read_to_string(&file).unwrap()) {
            if floor_of.get(other.as_str()).is_some_and(|below| below > floor) {
                wrong.push(format!("{} knows `{other}`, which is above it", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_room_is_on_a_floor_and_in_the_picture() {
    let picture = std::fs::read_to_string(source().join("../ARCHITECTURE.md")).unwrap();
    let known: BTreeSet<&str> = FLOORS.iter().flat_map(|(_, rooms)| rooms.iter().copied()).collect();
    let there: BTreeSet<String> = source_files(&source())
        .iter()
        .map(|file| room_of(file))
        .filter(|room| room != "lib" && room != "main")
        .collect();
    assert_eq!(known, there.iter().map(String::as_str).collect());
    for room in known {
        assert!(picture.contains(&format!("`{room}")), "ARCHITECTURE.md does not know `{room}`");
    }
}

#[test]
fn what_is_kept_to_one_room_is_only_there() {
    let only: &[(&str, &str)] = &[
        ("prometheus::", "metrics"),
        ("reqwest::", "cli"),
        ("rusqlite::", "ledger"),
        ("tokio_postgres::", "ledger"),
        ("genai_prices::", "pricing"),
        ("tiktoken_rs::", "tokenizer"),
        ("tiktoken::", "tokenizer"),
        ("tokenizers::", "tokenizer"),
    ];
    for file in source_files(&source()) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (name, room) in only {
            assert!(!text.contains(name) || room_of(&file) == *room, "{} names `{name}`", file.display());
        }
    }
}
