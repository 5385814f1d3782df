//! Keys: virtual keys, known by their SHA-256 only.
//!
//! A secret is shown once, when it is made; it is never kept, and cannot be found from what is.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::attribution::Refusal;
use crate::ids::{AppId, KeyId, TeamId};

/// What every virtual key begins with.
pub const PREFIX: &str = "tm_";

/// Characters behind [`PREFIX`]: 256 bits in base64url.
pub const SECRET_CHARS: usize = 43;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A virtual key, without its secret.
#[derive(Clone, Eq, PartialEq)]
pub struct Key {
    /// Its public name.
    pub id: KeyId,
    /// The SHA-256 of the secret, `tm_` included.
    pub sha256: [u8; 32],
    /// The team that pays.
    pub team: TeamId,
    /// The team's application, if the key is one application's.
    pub app: Option<AppId>,
    /// Whether it was taken back.
    pub is_revoked: bool,
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Key")
            .field("id", &self.id)
            .field("team", &self.team)
            .field("app", &self.app)
            .field("is_revoked", &self.is_revoked)
            .finish_non_exhaustive()
    }
}

type ByDigest = HashMap<[u8; 32], Arc<Key>>;

/// Every key that is known: those of the config, and those of the ledger, which change under running calls.
pub struct KeySet {
    of_config: Vec<Arc<Key>>,
    all: ArcSwap<ByDigest>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeySet").field("keys", &self.all.load().len()).finish_non_exhaustive()
    }
}

impl KeySet {
    /// The keys of the config; those of the ledger come with [`KeySet::set_ledger_keys`].
    pub fn new(of_config: Vec<Key>) -> Self {
        let of_config: Vec<_> = of_config.into_iter().map(Arc::new).collect();
        let all = ArcSwap::from_pointee(by_digest(of_config.iter().cloned()));
        Self { of_config, all }
    }

    /// The ledger's keys are now `keys`. Calls that begin from now on know it.
    pub fn set_ledger_keys(&self, keys: Vec<Key>) {
        let all = self.of_config.iter().cloned().chain(keys.into_iter().map(Arc::new));
        self.all.store(Arc::new(by_digest(all)));
    }

    /// The key of `secret`, as it came in a request.
    pub fn find(&self, secret: &[u8]) -> Result<Arc<Key>, Refusal> {
        if !is_well_formed(secret) {
            return Err(Refusal::MalformedKey);
        }
        match self.all.load().get(&digest(secret)) {
            Some(key) if key.is_revoked => Err(Refusal::RevokedKey),
            Some(key) => Ok(Arc::clone(key)),
            None => Err(Refusal::UnknownKey),
        }
    }
}

/// Of two keys with one digest the config's speaks, unless either was revoked.
fn by_digest(keys: impl Iterator<Item = Arc<Key>>) -> ByDigest {
    let mut all = ByDigest::new();
    for key in keys {
        match all.get(&key.sha256) {
            Some(_) if !key.is_revoked => {}
            Some(_) | None => drop(all.insert(key.sha256, key)),
        }
    }
    all
}

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes for a key")]
pub struct NoRandomness(#[source] getrandom::Error);

/// A new secret: `tm_` and 256 random bits.
pub fn new_secret() -> Result<SecretString, NoRandomness> {
    let mut bits = [0_u8; 32];
    getrandom::fill(&mut bits).map_err(NoRandomness)?;
    Ok(secret_of(&bits))
}

/// `tm_` and base64url without padding.
fn secret_of(bits: &[u8; 32]) -> SecretString {
    let mut text = String::with_capacity(PREFIX.len() + SECRET_CHARS);
    text.push_str(PREFIX);
    for triple in bits.chunks(3) {
        let group = (0..3).fold(0_u32, |group, at| group << 8 | u32::from(triple.get(at).copied().unwrap_or(0)));
        for position in 0..=triple.len() {
            let sextet = group >> (18 - 6 * position) & 0x3f;
            text.extend(ALPHABET.get(sextet as usize).map(|character| char::from(*character)));
        }
    }
    SecretString::from(text)
}

/// The SHA-256 of a secret, `tm_` included.
pub fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// The public name of the key with this digest: `k_` and its first eight hexadecimal digits.
pub fn key_id(digest: &[u8; 32]) -> KeyId {
    let [first, second, third, fourth, ..] = digest;
    let name = format!("k_{first:02x}{second:02x}{third:02x}{fourth:02x}");
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "a letter, an underscore and eight digits are an id"
    )]
    KeyId::parse(&name).expect("a key's name is an id")
}

/// Whether `secret` has the shape of a virtual key.
pub fn is_well_formed(secret: &[u8]) -> bool {
    secret
        .strip_prefix(PREFIX.as_bytes())
        .is_some_and(|rest| rest.len() == SECRET_CHARS && rest.iter().all(|byte| is_key_byte(*byte)))
}

/// Whether `byte` may stand in a virtual key.
pub(crate) fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

impl Key {
    /// A key of `secret` for `team`.
    pub fn of_secret(secret: &SecretString, team: TeamId, app: Option<AppId>) -> Self {
        let sha256 = digest(secret.expose_secret().as_bytes());
        Self { id: key_id(&sha256), sha256, team, app, is_revoked: false }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;

    use super::*;

    #[test]
    fn a_secret_is_the_base64url_of_its_bits() {
        for seed in [0_u8, 1, 0x7f, 0xff] {
            let bits: [u8; 32] =
                std::array::from_fn(|at| seed.wrapping_mul(37).wrapping_add(u8::try_from(at).unwrap() * 7));
            let expected = format!("tm_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits));
            assert_eq!(secret_of(&bits).expose_secret(), expected);
            assert!(is_well_formed(expected.as_bytes()));
        }
    }

    #[test]
    fn new_secrets_differ_and_debug_does_not_print_them() {
        let (one, two) = (new_secret().unwrap(), new_secret().unwrap());
        assert_ne!(one.expose_secret(), two.expose_secret());
        let key = Key::of_secret(&one, TeamId::parse("t").unwrap(), None);
        let printed = format!("{one:?} {key:?} {:?}", KeySet::new(vec![key.clone()]));
        assert!(!printed.contains(one.expose_secret()) && !printed.contains("sha256"), "{printed}");
    }

    #[test]
    fn a_digest_is_sha_256_and_names_the_key() {
        let digest = digest(b"abc");
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(key_id(&digest).as_str(), "k_ba7816bf");
    }

    #[test]
    fn a_ledgers_revocation_reaches_a_key_of_the_config() {
        let secret = new_secret().unwrap();
        let key = Key::of_secret(&secret, TeamId::parse("t").unwrap(), None);
        let keys = KeySet::new(vec![key.clone()]);
        assert_eq!(*keys.find(secret.expose_secret().as_bytes()).unwrap(), key);
        keys.set_ledger_keys(vec![Key { team: TeamId::parse("other").unwrap(), ..key.clone() }]);
        assert_eq!(keys.find(secret.expose_secret().as_bytes()).unwrap().team.as_str(), "t");
        keys.set_ledger_keys(vec![Key { is_revoked: true, ..key }]);
        assert_eq!(keys.find(secret.expose_secret().as_bytes()), Err(Refusal::RevokedKey));
        keys.set_ledger_keys(vec![]);
        assert!(keys.find(secret.expose_secret().as_bytes()).is_ok());
    }
}
