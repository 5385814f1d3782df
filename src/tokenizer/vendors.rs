//! What models of other vendors make of a prompt, counted by `OpenAI`'s tokenizer: a first guess, until their reported counts
//! teach better.
//!
//! Medians of recorded prompts whose tokens were reported (November 2026). A factor says how the vendor's tokenizer compares with
//! `o200k` in English and code; what a template puts around a prompt is hidden, differs by host, and is most of a short one.

use super::measured::Measured;
use crate::wires::prompt::{Image, Prompt};

/// What a prompt costs, relative to its tokens in `o200k`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Template {
    /// Thousandths of the text's tokens.
    text: u64,
    /// Tokens that every conversation has.
    base: u64,
    /// Tokens of a message beside its text.
    message: u64,
    /// Tokens that go before tools.
    tools: u64,
    /// Thousandths of the tokens of tools' and schemas' JSON.
    json: u64,
    /// How pictures count.
    picture: Picture,
}

/// How pictures count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Picture {
    /// So many tokens each.
    Each(u64),
    /// A token for so many pixels, up to a limit, which is also what one of unknown size is taken for.
    Pixels { of_token: u64, tokens_max: u64 },
}

/// A model of which nothing is known.
const USUAL: Template =
    Template { text: 1_000, base: 3, message: 4, tools: 100, json: 1_000, picture: Picture::Each(800) };

const CLAUDE: Template = Template {
    text: 1_120,
    base: 3,
    message: 4,
    tools: 400,
    json: 1_200,
    // platform.claude.com/docs/en/build-with-claude/vision, read 2026-11-20.
    picture: Picture::Pixels { of_token: 750, tokens_max: 1_600 },
};
/// With the tokenizer of Opus 4.7 and later.
const CLAUDE_LATER: Template = Template { text: 1_400, json: 1_500, ..CLAUDE };
const GEMINI: Template = Template { base: 0, message: 1, tools: 0, picture: Picture::Each(258), ..USUAL };
const GEMINI_OLDER: Template = Template { message: 0, json: 400, ..GEMINI };
const COMMAND: Template = Template { base: 490, tools: 900, ..USUAL };
const DEEPSEEK: Template = Template { message: 1, tools: 260, ..USUAL };
const GLM: Template = Template { base: 5, message: 1, tools: 120, ..USUAL };
const GROK: Template = Template { base: 156, message: 0, tools: 50, ..USUAL };
const GROK_OLDER: Template = Template { base: 4, message: 3, tools: 80, ..USUAL };
const LLAMA: Template = Template { base: 25, message: 5, tools: 150, ..USUAL };
const MISTRAL: Template = Template { text: 1_040, base: 1, message: 2, tools: 20, ..USUAL };
const NOVA: Template = Template { base: 0, message: 0, tools: 350, ..USUAL };
const NOVA_2: Template = Template { text: 1_250, base: 45, tools: 800, ..NOVA };
const OSS: Template = Template { base: 63, message: 5, tools: 0, ..USUAL };
const QWEN: Template = Template { message: 5, tools: 140, ..USUAL };

/// By parts of models' names; the first that is found counts.
const TEMPLATES: &[(&[&str], Template)] = &[
    (&["claude-opus-4-7", "claude-opus-4.7", "claude-opus-4-8", "claude-opus-4.8"], CLAUDE_LATER),
    (&["claude-opus-5", "claude-sonnet-5", "claude-haiku-5"], CLAUDE_LATER),
    (&["claude"], CLAUDE),
    (&["gemini-1", "gemini-2.0"], GEMINI_OLDER),
    (&["gemini"], GEMINI),
    (&["gpt-oss"], OSS),
    (&["gemma"], Template { message: 7, ..USUAL }),
    (&["deepseek"], DEEPSEEK),
    (&["mistral", "ministral", "magistral", "codestral", "devstral", "pixtral", "voxtral", "mixtral"], MISTRAL),
    (&["llama"], LLAMA),
    (&["qwen", "qwq"], QWEN),
    (&["glm-"], GLM),
    (&["kimi"], Template { base: 6, message: 5, tools: 30, ..USUAL }),
    (&["grok-2", "grok-3"], GROK_OLDER),
    (&["grok"], GROK),
    (&["command"], COMMAND),
    (&["nova-2"], NOVA_2),
    (&["nova-"], NOVA),
    (&["sonar"], Template { base: 0, message: 0, ..USUAL }),
    (&["mimo"], Template { base: 247, tools: 200, ..USUAL }),
    (&["jamba"], Template { base: 6, ..USUAL }),
];

/// Whose models a provider's are, where their names do not say it.
const PROVIDERS: &[(&[&str], Template)] = &[
    (&["anthropic"], CLAUDE),
    (&["gemini", "vertex"], GEMINI),
    (&["cohere"], COMMAND),
    (&["deepseek"], DEEPSEEK),
    (&["mistral"], MISTRAL),
    (&["xai"], GROK),
    (&["zai"], GLM),
    (&["dashscope"], QWEN),
];

/// The tokens of a prompt, but for those sent as numbers and for what was not looked at.
pub(super) fn tokens(measured: &Measured, prompt: &Prompt, model: &str, provider: &str) -> u64 {
    let template = match (template(model, provider), measured.method) {
        (template, "o200k" | "bytes") => template,
        // By another tokenizer, the vendor's own, there is nothing to compare.
        (template, _) => Template { text: 1_000, json: 1_000, ..template },
    };
    let text = per_mille(measured.text, template.text);
    let pictures = prompt.images.iter().map(|image| of_picture(*image, template.picture));
    let pictures = pictures.fold(0, u64::saturating_add);
    if prompt.messages.is_empty() {
        return text.saturating_add(pictures);
    }
    let tools = if measured.tool_count == 0 { 0 } else { template.tools };
    let json = per_mille(measured.tools.saturating_add(measured.schema), template.json);
    let messages = measured.messages.saturating_mul(template.message);
    [text, template.base, messages, tools, json, pictures].into_iter().fold(0, u64::saturating_add)
}

fn template(model: &str, provider: &str) -> Template {
    let name = super::openai::bare(model);
    let by_name = TEMPLATES.iter().find(|(parts, _)| parts.iter().any(|part| name.contains(part)));
    let by_provider = || PROVIDERS.iter().find(|(names, _)| names.contains(&provider));
    by_name.or_else(by_provider).map_or(USUAL, |(_, template)| *template)
}

fn of_picture(image: Image, picture: Picture) -> u64 {
    match (picture, image.size) {
        (Picture::Each(tokens), _) => tokens,
        (Picture::Pixels { tokens_max, .. }, None) => tokens_max,
        (Picture::Pixels { of_token, tokens_max }, Some((width, height))) => {
            let pixels = u64::from(width).saturating_mul(u64::from(height));
            pixels.checked_div(of_token).unwrap_or(tokens_max).min(tokens_max)
        }
    }
}

fn per_mille(tokens: u64, by: u64) -> u64 {
    tokens.saturating_mul(by).checked_div(1_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_its_name_wherever_it_is_hosted_else_by_its_provider() {
        for (model, provider, expected) in [
            ("claude-3-5-haiku-20241022", "anthropic", CLAUDE),
            ("us.anthropic.claude-sonnet-4-20250514-v1:0", "bedrock", CLAUDE),
            ("anthropic/claude-opus-4.7", "openrouter", CLAUDE_LATER),
            ("gemini-2.5-flash", "vertex", GEMINI),
            ("models/gemini-2.0-flash", "gemini", GEMINI_OLDER),
            ("@cf/meta/llama-3.2-1b-instruct", "cloudflare", LLAMA),
            ("openai/gpt-oss-20b", "groq", OSS),
            ("amazon.nova-lite-v1:0", "bedrock", NOVA),
            ("our-own-deployment", "cohere", COMMAND),
            ("our-own-deployment", "selfhosted", USUAL),
        ] {
            assert_eq!(template(model, provider), expected, "{model} of {provider}");
        }
    }

    #[test]
    fn factors_are_for_the_tokenizer_that_they_compare_with() {
        let by = |method| {
            tokens(&Measured { method, text: 1_000, ..Measured::default() }, &Prompt::default(), "m", "mistral")
        };
        assert_eq!((by("o200k"), by("mistral_v3")), (1_040, 1_000));
    }

    #[test]
    fn a_picture_counts_by_its_pixels_where_the_vendor_says_so() {
        let sized = |size| of_picture(Image { size, is_low_detail: false }, CLAUDE.picture);
        assert_eq!(sized(Some((750, 100))), 100);
        assert_eq!(sized(Some((4_000, 4_000))), 1_600);
        assert_eq!(sized(None), 1_600);
        assert_eq!(of_picture(Image::default(), GEMINI.picture), 258);
    }
}
