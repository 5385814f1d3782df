//! Payers: departments, teams and keys of the file.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::attribution::keys::{Key, key_id};
use crate::attribution::{self, OnUnknown};
use crate::config::reader::Section;
use crate::config::{Department, Team};
use crate::ids::{AppId, DepartmentId, TeamId, UNATTRIBUTED};

/// The ids written in the file, in order.
type Known<'a> = BTreeSet<&'a str>;

pub(super) struct Payers {
    pub(super) attribution: attribution::Settings,
    pub(super) departments: Vec<Department>,
    pub(super) teams: Vec<Team>,
}

/// Who pays. Headers are trusted by default where only this machine can send them.
pub(super) fn read(root: &Section<'_>, is_loopback: bool) -> Payers {
    let section = root.section("attribution");
    let trust_headers = section.flag("trust_headers").unwrap_or(is_loopback);
    let on_unknown = section
        .choice("on_unknown", &[("accept", OnUnknown::Accept), ("refuse", OnUnknown::Refuse)])
        .unwrap_or_default();
    section.finish();

    let sections = root.sections("department");
    let mut seen = HashSet::new();
    let departments: Vec<Department> = sections.iter().filter_map(|section| department(section, &mut seen)).collect();
    let known = (!sections.is_empty()).then(|| departments.iter().map(|one| one.id.as_str()).collect());
    let sections = root.sections("team");
    let mut seen = HashSet::new();
    let teams: Vec<Team> = sections.iter().filter_map(|section| team(section, known.as_ref(), &mut seen)).collect();
    let known = (!sections.is_empty()).then(|| teams.iter().map(|one| one.id.as_str()).collect());
    let mut seen = HashMap::new();
    let keys = root.sections("key").iter().filter_map(|section| key(section, known.as_ref(), &mut seen)).collect();
    let of_team = |team: &Team| attribution::Team {
        id: team.id.clone(),
        department: team.department.clone().unwrap_or_else(DepartmentId::unattributed),
    };
    let attribution =
        attribution::Settings { trust_headers, on_unknown, teams: teams.iter().map(of_team).collect(), keys };
    Payers { attribution, departments, teams }
}

pub(super) fn department(section: &Section<'_>, seen: &mut HashSet<DepartmentId>) -> Option<Department> {
    let id = section.required_id("id", DepartmentId::parse);
    let name = section.text("name").map(str::to_owned);
    let cost_center = section.text("cost_center").map(str::to_owned);
    section.finish();
    let id = id?;
    own_id(section, "department", id.as_str(), seen.insert(id.clone()));
    Some(Department { id, name, cost_center })
}

pub(super) fn team(section: &Section<'_>, departments: Option<&Known<'_>>, seen: &mut HashSet<TeamId>) -> Option<Team> {
    let id = section.required_id("id", TeamId::parse);
    let name = section.text("name").map(str::to_owned);
    let department = section.id("department", DepartmentId::parse);
    section.finish();
    if let Some(department) = &department {
        known_id(section, "department", department.as_str(), departments);
    }
    let id = id?;
    own_id(section, "team", id.as_str(), seen.insert(id.clone()));
    Some(Team { id, name, department })
}

pub(super) fn key(
    section: &Section<'_>,
    teams: Option<&Known<'_>>,
    seen: &mut HashMap<[u8; 32], TeamId>,
) -> Option<Key> {
    let team = section.required_id("team", TeamId::parse);
    let app = section.id("app", AppId::parse);
    let how = "make a key with `tokenmeter keys new`, or write the SHA-256 of the whole key as 64 hexadecimal digits";
    section.require("sha256", how);
    let sha256 = section.text("sha256").and_then(|text| {
        let digest = of_hex(text);
        if digest.is_none() {
            section.problem("sha256", "is not 64 hexadecimal digits", how);
        }
        digest
    });
    section.finish();
    if let Some(team) = &team {
        known_id(section, "team", team.as_str(), teams);
    }
    let (team, sha256) = (team?, sha256?);
    if let Some(other) = seen.insert(sha256, team.clone()) {
        section.problem("sha256", format!("is the key of team `{other}` too"), "one key has one team; remove one");
    }
    Some(Key { id: key_id(&sha256), sha256, team, app, is_revoked: false })
}

/// An id of its own: not another's, and not the word for nobody.
fn own_id(section: &Section<'_>, kind: &str, id: &str, is_new: bool) {
    if !is_new {
        section.problem("id", format!("is {id:?}, which another {kind} has"), "give each its own id");
    }
    if id == UNATTRIBUTED {
        section.problem("id", format!("is {id:?}, which stands for nobody"), "choose another id");
    }
}

/// A reference to something written elsewhere in the file. Where nothing of its kind is written, any id will do.
fn known_id(section: &Section<'_>, key: &'static str, id: &str, known: Option<&Known<'_>>) {
    let Some(known) = known.filter(|known| !known.contains(id)) else { return };
    let names: Vec<&str> = known.iter().copied().collect();
    section.problem(
        key,
        format!("is {id:?}, which is no configured {key}"),
        format!("add a `[[{key}]]` with that id; known: {}", names.join(", ")),
    );
}

fn of_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}
