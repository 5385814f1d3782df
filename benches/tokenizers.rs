//! What it costs to count text that a provider does not: `cargo bench --bench tokenizers`.
//!
//! A megabyte of each text, natural ones and those that tokenizers are slow on, as time and as the heap that counting
//! needs at its peak beside the tables and the text. A name of a text, or a part of one, runs it alone. With
//! `--features vendor-tokenizers` other vendors' tokenizers too. `count_files` counts with files such as models come with.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the bench")]

use std::sync::LazyLock;

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher};
use tokenmeter::tokenizer::{FileTokenizer, OfFile, TEXT_BYTES_MAX, Tokenizers};

#[path = "../tests/support/tokenizer_files.rs"]
mod tokenizer_files;

/// Counts what is allocated, so that the table has the peak.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const TEXT_BYTES: usize = 1 << 20;

/// A model whose tokenizer is meant.
const MODELS: &[&str] = if cfg!(feature = "vendor-tokenizers") {
    &["gpt-5", "gpt-4", "llama-3.1", "qwen3", "deepseek-chat", "mistral-large", "glm-4.6", "kimi-k2"]
} else {
    &["gpt-5", "gpt-4"]
};

const TEXTS: &[&str] = &[
    "english",
    "rust",
    "a",
    "A",
    "a-z",
    "=",
    "slashes",
    "spaces",
    "tabs",
    "newlines",
    "base64",
    "hex",
    "chinese",
    "random cjk",
    "printable",
    "emoji",
    "combining",
    "digits",
    "letters",
    "dotted",
    "long words",
    "private use",
    "ligatures",
    "blanks",
];

fn main() {
    // The tables are made before anything is measured.
    for model in MODELS {
        divan::black_box(Tokenizers::default().counter("bench", model).count("text"));
    }
    divan::main();
}

/// The same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn of(&mut self, alphabet: &[char]) -> char {
        alphabet[self.below(alphabet.len())]
    }
}

fn text(name: &str) -> String {
    let mut random = Random(7);
    let all = |from: char, to: char| (from..=to).collect::<Vec<char>>();
    let alphabet = match name {
        "english" => return repeated(include_str!("../README.md")),
        "rust" => return repeated(include_str!("../src/ledger/applier.rs")),
        "chinese" => return repeated("客户服务部在每个月的月底统计词元的消耗量并把它交给财务部门核对之后存入总账"),
        "combining" => return repeated("e\u{301}\u{323}\u{302}"),
        "letters" => return repeated("a b c d e f g h "),
        "dotted" => return repeated("a.b.c.d.e.f.g.h."),
        "ligatures" => return repeated("ﷺ"),
        "emoji" => return repeated("👩\u{200d}👩\u{200d}👧🏽🇩🇪🦀"),
        "a" | "A" | "=" => name.chars().collect(),
        "slashes" => vec!['/'],
        "spaces" => vec![' '],
        "tabs" => vec!['\t'],
        "newlines" => vec!['\n'],
        "a-z" | "long words" => all('a', 'z'),
        "base64" => [all('a', 'z'), all('A', 'Z'), all('0', '9'), vec!['+', '/']].concat(),
        "hex" => [all('0', '9'), all('a', 'f')].concat(),
        "digits" => all('0', '9'),
        "random cjk" => all('一', '鿿'),
        "printable" => all(' ', '~'),
        "private use" => all('\u{e000}', '\u{f8ff}'),
        "blanks" => vec![' ', '\t', '\n', '\u{3000}'],
        name => unreachable!("{name} is no text"),
    };
    let mut text = String::new();
    while text.len() < TEXT_BYTES {
        let ends_word = name == "long words" && text.len() % 100 == 99;
        text.push(if ends_word { ' ' } else { random.of(&alphabet) });
    }
    text
}

fn repeated(unit: &str) -> String {
    unit.repeat(TEXT_BYTES / unit.len() + 1)
}

#[divan::bench(args = TEXTS, consts = [0, 1], sample_count = 3, sample_size = 1, skip_ext_time)]
fn count<const MODEL: usize>(bencher: Bencher<'_, '_>, name: &str) {
    count_as(bencher, MODELS[MODEL], name);
}

#[cfg(feature = "vendor-tokenizers")]
#[divan::bench(args = TEXTS, consts = [2, 3, 4, 5, 6, 7], sample_count = 3, sample_size = 1, skip_ext_time)]
fn count_vendors<const MODEL: usize>(bencher: Bencher<'_, '_>, name: &str) {
    count_as(bencher, MODELS[MODEL], name);
}

#[divan::bench(args = TEXTS, consts = [0, 1, 2, 3, 4], sample_count = 3, sample_size = 1, skip_ext_time)]
fn count_files<const KIND: usize>(bencher: Bencher<'_, '_>, name: &str) {
    static FILES: LazyLock<Vec<Tokenizers>> = LazyLock::new(|| tokenizer_files::KINDS.iter().map(of_file).collect());
    count_with(&FILES[KIND], bencher, "a model", name);
}

/// What counts with a file of such a kind.
fn of_file(kind: &&str) -> Tokenizers {
    let tokenizer = FileTokenizer::parse(tokenizer_files::tokenizer_json(kind).as_bytes()).unwrap();
    Tokenizers::new(vec![OfFile { tokenizer, upstreams: Vec::new(), models: Vec::new() }], TEXT_BYTES_MAX)
}

fn count_as(bencher: Bencher<'_, '_>, model: &str, name: &str) {
    count_with(&Tokenizers::default(), bencher, model, name);
}

fn count_with(tokenizers: &Tokenizers, bencher: Bencher<'_, '_>, model: &str, name: &str) {
    let text = text(name);
    bencher
        .counter(BytesCount::of_str(&text))
        .bench(|| tokenizers.counter("bench", model).count(divan::black_box(&text)).tokens);
}
