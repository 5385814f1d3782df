//! Writes the tokens of the built-in encodings, as `tiktoken-rs` has them, the way that `src/tokenizer/vocabulary.rs` reads
//! them: their lengths by rank, a byte each, and the tokens, one behind the other.

use std::error::Error;
use std::path::Path;

use tiktoken_rs::CoreBPE;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    for (name, encoding) in [("o200k", tiktoken_rs::o200k_base()?), ("cl100k", tiktoken_rs::cl100k_base()?)] {
        write(&encoding, &Path::new(&out).join(name))?;
    }
    Ok(())
}

fn write(encoding: &CoreBPE, path: &Path) -> Result<(), Box<dyn Error>> {
    let (mut lengths, mut tokens) = (Vec::new(), Vec::new());
    for rank in 0.. {
        // Special tokens are behind a gap.
        let Ok(token) = encoding.decode_bytes(&[rank]) else { break };
        lengths.push(u8::try_from(token.len())?);
        tokens.extend_from_slice(&token);
    }
    std::fs::write(path.with_extension("lengths"), lengths)?;
    std::fs::write(path.with_extension("tokens"), tokens)?;
    Ok(())
}
