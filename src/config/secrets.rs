//! Secrets: named in the file, kept outside of it.

use secrecy::SecretString;

use crate::config::Env;
use crate::config::reader::Section;

/// Where secrets come from, and whether they are wanted.
#[derive(Clone, Copy)]
pub(super) struct Secrets<'a> {
    pub(super) env: Env<'a>,
    pub(super) resolve: bool,
}

impl Secrets<'_> {
    /// The secret that `env_key` or `file_key` of `section` names, and whether one is named. It is `None` where none is,
    /// where secrets are not wanted, and beside a problem.
    pub(super) fn read(
        &self,
        section: &Section<'_>,
        env_key: &'static str,
        file_key: &'static str,
    ) -> (Option<SecretString>, bool) {
        let (variable, file) = (section.text(env_key), section.text(file_key));
        let is_named = section.has(env_key) || section.has(file_key);
        let secret = match (variable, file) {
            (Some(_), Some(_)) => {
                section.problem(
                    file_key,
                    format!("is given beside `{env_key}`"),
                    "keep one of the two: a secret has one place",
                );
                None
            }
            (Some(variable), None) if self.resolve => self.of_variable(section, env_key, variable),
            (None, Some(file)) if self.resolve => of_file(section, file_key, file),
            (Some(_) | None, None) | (None, Some(_)) => None,
        };
        (secret, is_named)
    }

    /// The secret that `env_key` alone may name. `None` where none is, where secrets are not wanted, and beside a
    /// problem.
    pub(super) fn read_env(&self, section: &Section<'_>, env_key: &'static str) -> Option<SecretString> {
        let variable = section.text(env_key).filter(|_| self.resolve)?;
        self.of_variable(section, env_key, variable)
    }

    fn of_variable(&self, section: &Section<'_>, key: &'static str, variable: &str) -> Option<SecretString> {
        let help = "set the variable for this process, or name the one that holds the secret";
        match (self.env)(variable) {
            Some(value) if is_printable(value.trim()) => Some(SecretString::from(value.trim())),
            Some(value) if value.trim().is_empty() => {
                section.problem(key, format!("names the variable `{variable}`, which is empty"), help);
                None
            }
            Some(_) => {
                section.problem(
                    key,
                    format!("names the variable `{variable}`, which holds no usable secret"),
                    NOT_PLAIN,
                );
                None
            }
            None => {
                section.problem(key, format!("names the variable `{variable}`, which is not set"), help);
                None
            }
        }
    }
}

const NOT_PLAIN: &str = "a secret is one line of printable ASCII characters";

fn of_file(section: &Section<'_>, key: &'static str, file: &str) -> Option<SecretString> {
    match std::fs::read_to_string(file) {
        Ok(text) if is_printable(text.trim()) => Some(SecretString::from(text.trim())),
        Ok(_) => {
            section.problem(key, format!("names the file {file:?}, which holds no usable secret"), NOT_PLAIN);
            None
        }
        Err(error) => {
            section.problem(
                key,
                format!("names the file {file:?}, which cannot be read: {error}"),
                "write the secret to the file, readable by this process",
            );
            None
        }
    }
}

/// Whether `secret` can stand in a header.
fn is_printable(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}
