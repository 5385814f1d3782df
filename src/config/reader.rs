//! Reader: TOML with positions, read key by key; what is wrong is collected, and what nobody asked for is unknown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::ids::BadId;
use crate::problem::Problem;

type Value<'a> = Spanned<DeValue<'a>>;

/// `bytes` as text, or the problem that they are not.
pub(super) fn utf8<'a>(bytes: &'a [u8], file: Option<&Path>) -> Result<&'a str, Vec<Problem>> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        vec![Problem {
            file: file.map(Path::to_owned),
            line: Some(line_after(before)),
            key: String::new(),
            what: "is not UTF-8 text".to_owned(),
            help: "save the file as UTF-8".to_owned(),
        }]
    })
}

/// `text` as TOML, or everything that keeps it from being TOML: nothing else can be known of such a file.
pub(super) fn parse<'a>(text: &'a str, file: Option<&Path>) -> Result<Spanned<DeTable<'a>>, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(root);
    }
    let problem = |error: &toml::de::Error| Problem {
        file: file.map(Path::to_owned),
        line: error.span().map(|span| line_of(text, span.start)),
        key: String::new(),
        what: format!("is not TOML: {}", error.message().trim()),
        help: "correct the line; config/tokenmeter.toml shows every key as it is written".to_owned(),
    };
    let mut problems: Vec<Problem> = errors.iter().map(problem).collect();
    problems.sort_by_key(|problem| problem.line);
    Err(problems)
}

fn line_of(text: &str, offset: usize) -> usize {
    line_after(text.as_bytes().get(..offset).unwrap_or(text.as_bytes()))
}

fn line_after(before: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', before).count() + 1
}

/// A file that is being read, and the problems found so far.
pub(super) struct Document<'a> {
    text: &'a str,
    file: Option<&'a Path>,
    problems: RefCell<Vec<Problem>>,
    /// Every key that was asked for, with its section: what the reference config is checked against.
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str, file: Option<&'a Path>) -> Self {
        Self { text, file, problems: RefCell::default(), asked: RefCell::default() }
    }

    pub(super) fn is_fine(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The problems in the file's order.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    fn add(&self, at: Option<usize>, key: String, what: impl Into<String>, help: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            file: self.file.map(Path::to_owned),
            line: at.filter(|_| !self.text.is_empty()).map(|offset| line_of(self.text, offset)),
            key,
            what: what.into(),
            help: help.into(),
        });
    }
}

/// A table of the file. One that is not there reads as empty.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Where the table begins, for problems of what is missing in it.
    at: Option<usize>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn root(document: &'a Document<'a>, root: &'a Spanned<DeTable<'a>>) -> Self {
        Self { document, path: String::new(), table: Some(root.get_ref()), at: None, known: RefCell::default() }
    }

    /// The table `[name]`.
    pub(super) fn section(&self, name: &'static str) -> Section<'a> {
        let value = self.value(name);
        let table = value.and_then(|value| self.as_table(name, value));
        self.child(name, table, value)
    }

    /// The tables `[[name]]`, in order.
    pub(super) fn sections(&self, name: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(name) else {
            // An empty one is read for nothing but the keys that it may have.
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(name, value, &format!("a list of tables, each written as `[[{name}]]`"));
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| self.as_table(name, item).map(|table| self.child(name, Some(table), Some(item))))
            .collect()
    }

    /// An empty table `[[name]]`: what it asks for is what such a table may hold.
    #[cfg(test)]
    pub(super) fn empty(document: &'a Document<'a>, name: &str) -> Self {
        Self { document, path: name.to_owned(), table: None, at: None, known: RefCell::default() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    pub(super) fn text(&self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a text in quotes");
        }
        text
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<&'a str>> {
        let value = self.value(key)?;
        let texts =
            value.get_ref().as_array().and_then(|items| items.iter().map(|item| item.get_ref().as_str()).collect());
        if texts.is_none() {
            self.wrong_type(key, value, "a list of texts in quotes");
        }
        texts
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        flag
    }

    /// A whole number within `range`; `default` where the key is absent or wrong.
    pub(super) fn whole(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.whole_if_set(key, range, &format!("the default is {default}")).unwrap_or(default)
    }

    /// `without`: what goes where it is not set, for who set it wrongly.
    pub(super) fn whole_if_set(&self, key: &'static str, range: RangeInclusive<u64>, without: &str) -> Option<u64> {
        let value = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let (low, high) = range.into_inner();
        let help = format!("must be from {low} to {high}; {without}");
        self.problem(key, format!("is {}", integer.as_str()), help);
        None
    }

    pub(super) fn size(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> usize {
        usize::try_from(self.whole(key, default, range)).unwrap_or(usize::MAX)
    }

    pub(super) fn secs(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.whole(key, default, range))
    }

    pub(super) fn address(&self, key: &'static str) -> Option<SocketAddr> {
        let text = self.text(key)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.problem(
                key,
                format!("is {text:?}, which is no address"),
                "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"",
            );
        }
        address
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if chosen.is_none() {
            let known: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.problem(key, format!("is {text:?}"), format!("known: {}", known.join(", ")));
        }
        chosen
    }

    pub(super) fn id<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, BadId>) -> Option<T> {
        let text = self.text(key)?;
        match parse(text) {
            Ok(id) => Some(id),
            Err(bad) => {
                self.problem(key, format!("is {text:?}, which is no id"), bad.to_string());
                None
            }
        }
    }

    /// Like [`Section::id`] for a key without which the table says nothing.
    pub(super) fn required_id<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, BadId>) -> Option<T> {
        self.require(key, "give it an id of letters, digits, `.`, `_` and `-`");
        self.id(key, parse)
    }

    /// Reports `key` as missing if it is.
    pub(super) fn require(&self, key: &'static str, help: &str) {
        if !self.has(key) {
            self.document.add(self.at, self.full(key), "is missing", help);
        }
    }

    /// Reports what is wrong with `key`, where it stands.
    pub(super) fn problem(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        let at = self.table.and_then(|table| table.get(key)).map(|value| value.span().start).or(self.at);
        self.document.add(at, self.full(key), what, help);
    }

    /// Reports the keys that nobody asked for. Comes last.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref();
            if known.contains(&**name) {
                continue;
            }
            let secret = ["_env", "_file"].map(|ending| format!("{name}{ending}"));
            let help = if secret.iter().all(|key| known.contains(key.as_str())) {
                format!("a secret is not written here; name where it is with `{}` or `{}`", secret[0], secret[1])
            } else {
                let names: Vec<&str> = known.iter().copied().collect();
                format!("known: {}", names.join(", "))
            };
            self.document.add(Some(key.span().start), self.full(name), "is unknown", help);
        }
    }

    fn value(&self, key: &'static str) -> Option<&'a Value<'a>> {
        self.known.borrow_mut().insert(key);
        self.document.asked.borrow_mut().insert(self.full(key));
        self.table?.get(key)
    }

    fn as_table(&self, name: &'static str, value: &'a Value<'a>) -> Option<&'a DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(name, value, "a table");
        }
        table
    }

    fn child(&self, name: &str, table: Option<&'a DeTable<'a>>, value: Option<&'a Value<'a>>) -> Section<'a> {
        let at = value.map(|value| value.span().start);
        Section { document: self.document, path: self.full(name), table, at, known: RefCell::default() }
    }

    fn wrong_type(&self, key: &str, value: &Value<'_>, expected: &str) {
        let is = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(true) => "true",
            DeValue::Boolean(false) => "false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.document.add(Some(value.span().start), self.full(key), format!("is {is}"), format!("must be {expected}"));
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}
