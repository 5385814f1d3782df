//! What is billed by the piece, the second or the page, or in tokens that no text shows: images, audio, rankings, OCR.

use serde_json::value::RawValue;

use super::answer::Answer;
use super::usage::whole_seconds;
use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::wires::markers;
use crate::wires::object::Object;
use crate::wires::{Observer, Reading, UsageSeen};

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Billed {
    answer: Answer,
    is_begun: bool,
    /// Images delivered: what dall-e is billed by.
    images: u64,
    /// How long the audio was, as the transcript says.
    seconds: Option<u64>,
    /// A usage object that tells no quantity.
    evidence: Option<Box<RawValue>>,
}

impl Billed {
    pub(super) fn new(operation: Operation, provider: &str) -> Self {
        Self { answer: Answer::new(operation, provider), is_begun: false, images: 0, seconds: None, evidence: None }
    }

    fn read(&mut self, object: &Object<'_>) {
        let answer = &mut self.answer;
        answer.take_head(object);
        let kind = object.text("type").unwrap_or_default();
        answer.is_error |= kind == "error";
        answer.is_terminal |=
            matches!(kind.as_str(), "transcript.text.done" | "transcription.done" | "speech.audio.done");
        answer.is_finished |= answer.is_terminal;
        if answer.operation == Operation::ImageGeneration {
            let whole = object.elements("data").len().saturating_add(usize::from(kind.ends_with(".completed")));
            self.images = self.images.saturating_add(u64::try_from(whole).unwrap_or(u64::MAX));
        }
        if answer.operation == Operation::Transcription {
            self.seconds = object.get("duration").and_then(whole_seconds).or(self.seconds);
        }
        let units = object.object("meta");
        let units = units.as_ref().and_then(|meta| meta.get("billed_units"));
        let Some(usage) = object.get_any(&["usage", "usage_info"]).or(units) else { return };
        if answer.usage.take(usage) {
            answer.seen = UsageSeen::Final;
        } else if answer.seen == UsageSeen::Nothing {
            // A price alone, such as xAI's, is no usage, but evidence.
            self.evidence = compacted(usage.get());
        }
    }
}

impl Observer for Billed {
    fn unit(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.answer.is_terminal = true;
            return;
        }
        // The first may be the whole answer; of a stream's events only the last tell anything.
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if (is_first
            || markers::has_value(&markers::USAGE, data)
            || markers::COMPLETED.find(data).is_some()
            || markers::DONE.find(data).is_some()
            || markers::ERROR.find(data).is_some())
            && let Some(object) = Object::parse(data)
        {
            self.read(&object);
        }
    }

    fn is_terminal(&self) -> bool {
        self.answer.is_terminal
    }

    fn reading(&mut self) -> Reading {
        let mut reading = self.answer.reading();
        if reading.usage == UsageSeen::Nothing {
            let told = [("images", Some(self.images)), ("audio_seconds", self.seconds)];
            let told =
                told.into_iter().filter_map(|(name, count)| Some((name.to_owned(), count.filter(|it| *it > 0)?)));
            reading.units.extend(told);
            reading.usage_raw.clone_from(&self.evidence);
        }
        reading
    }
}
