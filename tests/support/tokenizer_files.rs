//! Tokenizer files: a `tokenizer.json` of each kind that models come with, made of the vocabulary of `o200k`, so that each
//! is as large as real ones and knows the same words.

use std::collections::HashMap;

use serde_json::{Value, json};
use tiktoken_rs::o200k_base_singleton;

/// Ordinary tokens of `o200k`, the most frequent first.
const TOKENS: u32 = 199_998;

/// How Llama 3 cuts text into words; those of Qwen and others differ in details.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokenizers, by those who have them.
pub(crate) const KINDS: &[&str] = &["llama-3", "gemma", "llama-2", "xlm-roberta", "bert"];

/// The file of such a tokenizer.
pub(crate) fn tokenizer_json(kind: &str) -> String {
    let file = match kind {
        "llama-3" => {
            let words = json!({"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": false});
            let bytes =
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
            let model = merging(&byte_level(), &json!({"ignore_merges": true, "byte_fallback": false}));
            file(&Value::Null, &json!({"type": "Sequence", "pretokenizers": [words, bytes]}), &model)
        }
        // Neither cuts text into words: a text is one word, blanks and all.
        "gemma" => {
            let model =
                merging(&pieces(TOKENS), &json!({"byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>"}));
            let blanks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
            let split =
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
            file(&blanks, &split, &model)
        }
        "llama-2" => {
            let common = pieces(32_000);
            let model = merging(&common, &json!({"byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>"}));
            let begin = json!({"type": "Prepend", "prepend": "▁"});
            let blanks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
            file(&json!({"type": "Sequence", "normalizers": [begin, blanks]}), &Value::Null, &model)
        }
        "xlm-roberta" => {
            let score = |rank: usize| -i64::from((rank + 10).ilog2());
            let scored =
                pieces(TOKENS).into_iter().enumerate().map(|(rank, piece)| json!([piece.concat(), score(rank)]));
            let vocabulary: Vec<Value> = [json!(["<unk>", 0.0])].into_iter().chain(scored).collect();
            let model = json!({"type": "Unigram", "unk_id": 0, "vocab": vocabulary});
            let words = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
            let words = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]});
            file(&json!({"type": "NFKC"}), &words, &model)
        }
        "bert" => {
            let mut vocabulary = serde_json::Map::from_iter([("[UNK]".to_owned(), json!(0))]);
            let letters = ('!'..='~').flat_map(|letter| [format!("▁{letter}"), letter.to_string()]);
            for piece in letters.chain(pieces(TOKENS).into_iter().map(|piece| piece.concat())) {
                let piece = piece.to_lowercase();
                let piece = piece.strip_prefix('▁').map_or_else(|| format!("##{piece}"), str::to_owned);
                let id = vocabulary.len();
                vocabulary.entry(piece).or_insert(json!(id));
            }
            let model = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary});
            let normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true});
            file(&normalizer, &json!({"type": "BertPreTokenizer"}), &model)
        }
        kind => unreachable!("{kind} is no kind"),
    };
    file.to_string()
}

fn file(normalizer: &Value, pre_tokenizer: &Value, model: &Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model})
}

/// A token as the two parts that it is merged from; of one part it is where it is not merged.
type Token = Vec<String>;

/// A model that merges pairs, with more `settings`.
fn merging(tokens: &[Token], settings: &Value) -> Value {
    let special = ["<unk>".to_owned()].into_iter().chain((0..=255).map(|byte: u8| format!("<{byte:#04X}>")));
    let mut vocabulary = serde_json::Map::new();
    for token in special.chain(tokens.iter().map(|token| token.concat())) {
        let id = vocabulary.len();
        vocabulary.entry(token).or_insert(json!(id));
    }
    let merges: Vec<&Token> = tokens.iter().filter(|token| token.len() == 2).collect();
    let mut model = json!({"type": "BPE", "vocab": vocabulary, "merges": merges});
    for (name, value) in settings.as_object().into_iter().flatten() {
        model[name] = value.clone();
    }
    model
}

/// Every token's bytes, each written as a character.
fn byte_level() -> Vec<Token> {
    // The bytes that show as themselves; the others follow each other from U+0100.
    let shows = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u8> = (0..=255).filter(|byte| !shows(*byte)).collect();
    let letter = |byte: u8| match hidden.iter().position(|one| *one == byte) {
        Some(at) => char::from_u32(0x100 + u32::try_from(at).unwrap_or_default()).unwrap_or_default(),
        None => char::from(byte),
    };
    let letters: Vec<char> = (0..=255).map(letter).collect();
    let written = |bytes: &[u8]| bytes.iter().filter_map(|byte| letters.get(usize::from(*byte))).collect::<String>();
    parts(TOKENS, |bytes| bytes.chunks(1).map(<[u8]>::to_vec).collect(), |part| Some(written(part)))
}

/// Of the first tokens those that are text, with `▁` for a blank.
fn pieces(count: u32) -> Vec<Token> {
    let characters = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        text.chars().map(|character| character.to_string().into_bytes()).collect()
    };
    parts(count, characters, |part| Some(std::str::from_utf8(part).ok()?.replace(' ', "▁")))
}

/// Of the first tokens those that can be `written`, of what `cut` leaves of them at first; merged in their order.
fn parts(count: u32, cut: impl Fn(&[u8]) -> Vec<Vec<u8>>, written: impl Fn(&[u8]) -> Option<String>) -> Vec<Token> {
    let table = o200k_base_singleton();
    let bytes = (0..count).filter_map(|rank| table.decode_bytes(&[rank]).ok());
    let tokens: Vec<Vec<u8>> = bytes.filter(|bytes| written(bytes).is_some()).collect();
    let ranks: HashMap<&[u8], usize> = tokens.iter().enumerate().map(|(rank, token)| (&token[..], rank)).collect();
    let merged = |rank: usize| {
        let mut parts = cut(&tokens[rank]);
        while parts.len() > 2 {
            let pairs = parts.windows(2).enumerate();
            let first = pairs.filter_map(|(at, pair)| Some((*ranks.get(&pair.concat()[..])?, at)));
            let Some((_, at)) = first.filter(|(pair, _)| *pair < rank).min() else { break };
            let behind = parts.remove(at + 1);
            parts[at].extend(behind);
        }
        let is_merged = parts.len() == 2 && parts.iter().all(|part| ranks.contains_key(&part[..]));
        if is_merged { parts } else { vec![tokens[rank].clone()] }
    };
    let written = |token: Vec<Vec<u8>>| token.iter().filter_map(|part| written(part)).collect();
    (0..tokens.len()).map(merged).map(written).collect()
}
