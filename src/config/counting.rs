//! Counting: how tokens are counted that a provider does not report, and by whose tokenizer.

use std::path::Path;

use super::MIB;
use crate::config::reader::Section;
use crate::meter::{QUEUE_BYTES_MAX, Settings};
use crate::proxy::upstream;
use crate::tokenizer::{FileTokenizer, OfFile, TEXT_BYTES_MAX, Tokenizers};

/// More threads than any machine has cores to spare.
const THREADS_MAX: u64 = 64;

/// `[counting]` and `[[tokenizer]]`. The files of tokenizers are read where they are `wanted`.
pub(super) fn read(root: &Section<'_>, upstreams: &[upstream::Settings], wanted: bool) -> Settings {
    let section = root.section("counting");
    let threads = section.size("threads", 1, 1..=THREADS_MAX);
    let queue_bytes_max = section.size("queue_bytes_max", wide(QUEUE_BYTES_MAX), MIB..=16 * 1024 * MIB);
    let text_bytes_max = section.size("text_bytes_max", wide(TEXT_BYTES_MAX), MIB / 16..=256 * MIB);
    let learn = section.flag("learn").unwrap_or(true);
    if let Some(asked) = upstreams.iter().find(|upstream| upstream.count_every.is_some()).filter(|_| !learn) {
        section.problem(
            "learn",
            format!("is false, and upstream `{}` has `count_endpoint`, of which nothing would be learned", asked.name),
            "remove one of the two",
        );
    }
    let preload = section.flag("preload").unwrap_or(false);
    section.finish();
    let files = root.sections("tokenizer").iter().filter_map(|section| tokenizer(section, upstreams, wanted)).collect();
    Settings { tokenizers: Tokenizers::new(files, text_bytes_max), threads, queue_bytes_max, learn, preload }
}

fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// `None` beside a problem, and where the file is not wanted.
pub(super) fn tokenizer(section: &Section<'_>, upstreams: &[upstream::Settings], wanted: bool) -> Option<OfFile> {
    section.require("file", "name the tokenizer.json that comes with the model's weights");
    let (names, models) = (section.texts("upstreams"), section.texts("models"));
    let is_nobody = |key: &str, list: Option<&Vec<&str>>| list.map_or(!section.has(key), Vec::is_empty);
    if is_nobody("upstreams", names.as_ref()) && is_nobody("models", models.as_ref()) {
        let help = "name `upstreams`, or `models` such as [\"llama-3*\"], or both";
        section.problem("file", "is given for nobody", help);
    }
    let (names, models) = (names.unwrap_or_default(), models.unwrap_or_default());
    for name in names.iter().filter(|name| !upstreams.iter().any(|known| known.name.as_str() == **name)) {
        let known: Vec<&str> = upstreams.iter().map(|known| known.name.as_str()).collect();
        let what = format!("names {name:?}, which is no configured upstream");
        section.problem("upstreams", what, format!("known: {}", known.join(", ")));
    }
    let file = section.text("file").filter(|_| wanted);
    let tokenizer = file.and_then(|file| match load(Path::new(file)) {
        Ok(tokenizer) => Some(tokenizer),
        Err(what) => {
            let help = "name a tokenizer.json in the format of Hugging Face's library, readable by this process";
            section.problem("file", format!("names {file}, which {what}"), help);
            None
        }
    });
    section.finish();
    let texts = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
    Some(OfFile { tokenizer: tokenizer?, upstreams: texts(names), models: texts(models) })
}

fn load(file: &Path) -> Result<FileTokenizer, String> {
    let bytes = std::fs::read(file).map_err(|error| format!("cannot be read: {error}"))?;
    FileTokenizer::parse(&bytes).map_err(|error| error.to_string())
}
