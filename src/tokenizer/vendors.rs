//! What models of other vendors make of a prompt, by `OpenAI`'s tokenizer: a first guess, until their reported counts teach
//! better.

use super::measured::Measured;
use crate::wires::prompt::Prompt;

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
    /// Thousandths of the tokens of the tools' JSON.
    tool: u64,
    /// Tokens of a picture.
    image: u64,
}

/// Of a stranger.
const USUAL: Template = Template { text: 1_000, base: 3, message: 4, tools: 20, tool: 1_000, image: 800 };

/// By beginnings of models' names, without what stands before them; the first that fits counts.
const TEMPLATES: &[(&[&str], Template)] = &[
    (&["claude-opus-4-7", "claude-opus-5", "claude-sonnet-5"], Template { text: 1_400, ..CLAUDE }),
    (&["claude"], CLAUDE),
];

const CLAUDE: Template = Template { text: 1_120, base: 3, message: 4, tools: 400, tool: 1_200, image: 1_500 };

/// The tokens of a prompt, but for those sent as numbers and for what was not looked at.
pub(super) fn tokens(measured: &Measured, prompt: &Prompt, model: &str, _provider: &str) -> u64 {
    let template = template(model);
    let per_mille = |tokens: u64, by: u64| tokens.saturating_mul(by).checked_div(1_000).unwrap_or(0);
    let text = per_mille(measured.text, template.text);
    if prompt.messages.is_empty() {
        return text.saturating_add(measured.images.saturating_mul(template.image));
    }
    let tools = if measured.tool_count == 0 {
        0
    } else {
        template.tools.saturating_add(per_mille(measured.tools, template.tool))
    };
    [
        text,
        template.base,
        measured.messages.saturating_mul(template.message),
        tools,
        per_mille(measured.schema, template.tool),
        measured.images.saturating_mul(template.image),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

fn template(model: &str) -> Template {
    let name = super::openai::bare(model);
    let fits = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    TEMPLATES.iter().find(|(prefixes, _)| fits(prefixes)).map_or(USUAL, |(_, template)| *template)
}
