//! Attribution: who pays for a call, and by what evidence we know it.
//!
//! In: a request's headers and query. Out: [`Attributed`], or a [`Refusal`]. No network, no files.
//! A virtual key decides the team. Headers may add an application and tags, and name a team where no key does, if
//! they are trusted at all.

pub mod headers;
pub mod keys;

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;

use crate::attribution::headers::Believed;
use crate::attribution::keys::{Key, KeySet};
use crate::ids::{AppId, DepartmentId, KeyId, TeamId, UNATTRIBUTED};
use crate::record::{AttributedBy, Tags};

/// Who may call, and what is believed. `config` fills it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Whether `x-tokenmeter-team`, `-app` and `-tags` are believed.
    pub trust_headers: bool,
    /// What happens to a call whose payer is unknown.
    pub on_unknown: OnUnknown,
    /// Known teams and their departments. Empty: any well-formed team in a trusted header is taken.
    pub teams: Vec<Team>,
    /// Keys written in the config file. Those made on the command line are in the ledger.
    pub keys: Vec<Key>,
}

/// A known team.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// The department it belongs to; [`DepartmentId::unattributed`] where it has none.
    pub department: DepartmentId,
}

/// What happens to a call whose payer is unknown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnUnknown {
    /// It passes and is recorded as unattributed.
    #[default]
    Accept,
    /// It is refused.
    Refuse,
}

/// Who pays for a call. Cloning copies no text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attributed {
    /// The department.
    pub department: DepartmentId,
    /// The team.
    pub team: TeamId,
    /// The team's application, where known.
    pub app: Option<AppId>,
    /// The virtual key, if a valid one was presented: only then our own credential stands in for it.
    pub key: Option<KeyId>,
    /// The evidence.
    pub attributed_by: AttributedBy,
    /// The client's labels.
    pub tags: Tags,
}

/// Why a call is refused. The text is for the client; it never holds the key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A `tm_…` that nobody made.
    #[error("this tokenmeter key is unknown; ask whoever runs tokenmeter for one")]
    UnknownKey,
    /// A `tm_…` that was taken back.
    #[error("this tokenmeter key was revoked; ask whoever runs tokenmeter for a new one")]
    RevokedKey,
    /// A `tm_…` of the wrong length or alphabet: usually cut off in copying.
    #[error("this tokenmeter key is malformed: a key is `tm_` and 43 characters; was it copied whole?")]
    MalformedKey,
    /// Two different virtual keys in one request.
    #[error("the request carries two different tokenmeter keys; send one")]
    TwoKeys,
    /// A virtual key where it would go on to the provider.
    #[error(
        "the request carries a tokenmeter key in its path, from where it would go on to the provider; send it as the API's credential"
    )]
    MisplacedKey,
    /// Nobody is known to pay, and such calls are not taken.
    #[error("tokenmeter does not know who pays for this call; send a tokenmeter key")]
    UnknownCaller,
}

impl Refusal {
    /// Every refusal, for the metrics to show at 0.
    pub const ALL: [Self; 6] = [
        Self::UnknownKey,
        Self::RevokedKey,
        Self::MalformedKey,
        Self::TwoKeys,
        Self::MisplacedKey,
        Self::UnknownCaller,
    ];

    /// tokenmeter's error code and the `reason` of its metric.
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::RevokedKey => "revoked_key",
            Self::MalformedKey => "malformed_key",
            Self::TwoKeys => "two_keys",
            Self::MisplacedKey => "misplaced_key",
            Self::UnknownCaller => "unknown_caller",
        }
    }
}

/// The rules by which calls are attributed.
#[derive(Debug)]
pub struct Attribution {
    trust_headers: bool,
    on_unknown: OnUnknown,
    teams: HashMap<Box<str>, Team>,
    keys: Arc<KeySet>,
    nobody: Team,
}

impl Attribution {
    /// The rules of `settings`. Keys are looked up in `keys`, which knows those of the config and of the ledger.
    pub fn new(settings: Settings, keys: Arc<KeySet>) -> Self {
        Self {
            trust_headers: settings.trust_headers,
            on_unknown: settings.on_unknown,
            teams: settings.teams.into_iter().map(|team| (team.id.as_str().into(), team)).collect(),
            keys,
            nobody: Team { id: TeamId::unattributed(), department: DepartmentId::unattributed() },
        }
    }

    /// Who pays for the request with these headers and this query. Whether its path may go on is another question:
    /// [`headers::check_path`].
    pub fn of(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Attributed, Refusal> {
        let key = match headers::virtual_key(headers, query)? {
            Some(secret) => Some(self.keys.find(secret)?),
            None => None,
        };
        let believed = if self.trust_headers { Believed::read(headers) } else { Believed::default() };
        let (team, attributed_by) = match (&key, believed.team.and_then(|team| self.team_in_header(team))) {
            (Some(key), _) => (self.team_of(key), AttributedBy::Key),
            (None, Some(team)) => (team, AttributedBy::Header),
            (None, None) => match self.on_unknown {
                OnUnknown::Accept => (self.nobody.clone(), AttributedBy::None),
                OnUnknown::Refuse => return Err(Refusal::UnknownCaller),
            },
        };
        Ok(Attributed {
            department: team.department,
            team: team.id,
            app: key.as_ref().and_then(|key| key.app.clone()).or(believed.app),
            key: key.map(|key| key.id.clone()),
            attributed_by,
            tags: believed.tags,
        })
    }

    /// A key outlives its team's configuration: the team still pays, its department is no longer known.
    fn team_of(&self, key: &Key) -> Team {
        self.teams
            .get(key.team.as_str())
            .cloned()
            .unwrap_or_else(|| Team { id: key.team.clone(), department: self.nobody.department.clone() })
    }

    fn team_in_header(&self, name: &str) -> Option<Team> {
        if let Some(team) = self.teams.get(name) {
            return Some(team.clone());
        }
        if self.teams.is_empty() && name != UNATTRIBUTED {
            let id = TeamId::parse(name).ok()?;
            return Some(Team { id, department: self.nobody.department.clone() });
        }
        None
    }
}

#[cfg(test)]
mod tests;
