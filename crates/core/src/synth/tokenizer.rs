//! A small byte-level tokenizer, trained on the spot, in the layout of SmolVLM2's.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};

use super::Size;
use super::config::to_bytes;
use crate::{Error, Result};

/// Special tokens at fixed ids: as published for base, at the ends of the vocabulary for tiny.
struct Vocabulary {
    size: usize,
    /// The id of the first byte; what is below and no special token stays unused.
    first: usize,
    /// One past the last id that a learned token may have.
    end: usize,
    global_image: usize,
    fake_image: usize,
    image: usize,
    end_of_utterance: usize,
}

const BASE: Vocabulary = Vocabulary {
    size: 49_280,
    first: 17,
    end: 49_152,
    global_image: 49_152,
    fake_image: 49_189,
    image: 49_190,
    end_of_utterance: 49_279,
};

const TINY: Vocabulary = Vocabulary {
    size: 384,
    first: 3,
    end: 380,
    global_image: 380,
    fake_image: 381,
    image: 382,
    end_of_utterance: 383,
};

impl Vocabulary {
    /// Special tokens in ascending order of id.
    fn special(&self) -> [(usize, &'static str); 7] {
        [
            (0, "<|endoftext|>"),
            (1, "<|im_start|>"),
            (2, "<|im_end|>"),
            (self.global_image, "<global-img>"),
            (self.fake_image, "<fake_token_around_image>"),
            (self.image, "<image>"),
            (self.end_of_utterance, "<end_of_utterance>"),
        ]
    }
}

/// The files that transformers' `AutoTokenizer` and `AutoProcessor` need, by their path in the checkpoint.
pub(super) fn files(size: Size) -> Result<Vec<(String, Vec<u8>)>> {
    let vocabulary = match size {
        Size::Base => &BASE,
        Size::Tiny => &TINY,
    };
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "extra_special_tokens": {
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
        "truncation_side": "left",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": false,
        "processor_class": "SmolVLMProcessor",
    });
    let preprocessor =
        json!({ "image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor" });
    let processor = json!({ "image_seq_len": 64, "processor_class": "SmolVLMProcessor" });
    Ok(vec![
        ("vlm/tokenizer.json".to_owned(), to_bytes(&tokenizer(vocabulary)?, 1)),
        ("vlm/tokenizer_config.json".to_owned(), to_bytes(&tokenizer_config, 2)),
        ("vlm/preprocessor_config.json".to_owned(), to_bytes(&preprocessor, 2)),
        ("vlm/processor_config.json".to_owned(), to_bytes(&processor, 2)),
    ])
}

/// `tokenizer.json`.
fn tokenizer(vocabulary: &Vocabulary) -> Result<Value> {
    let (learned, merges) = train(vocabulary.end - vocabulary.first).map_err(|error| Error::Tokenizer {
        file: Path::new("vlm/tokenizer.json").to_owned(),
        reason: format!("cannot be trained: {error}"),
    })?;
    // Ids without a token make `tokenizers` complain, so they get one that no text contains.
    let mut names: Vec<String> = (0..vocabulary.size).map(|id| format!("<|unused_{id}|>")).collect();
    names.splice(vocabulary.first..vocabulary.first + learned.len(), learned);
    for (id, token) in vocabulary.special() {
        token.clone_into(&mut names[id]);
    }
    let vocab: Map<String, Value> =
        names.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = vocabulary.special().map(|(id, content)| {
        json!({
            "id": id,
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        })
    });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Digits", "individual_digits": true },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            ],
        },
        "post_processor": null,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        },
    }))
}

/// Learns at most `size` tokens, the 256 bytes among them: the tokens in order, and the merges.
fn train(size: usize) -> tokenizers::Result<(Vec<String>, Value)> {
    let words = Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]);
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(size)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    trainer.feed(corpus().iter(), |sentence| {
        let mut text = PreTokenizedString::from(sentence);
        words.pre_tokenize(&mut text)?;
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
    })?;
    let mut model = BPE::default();
    trainer.train(&mut model)?;
    let mut model = serde_json::to_value(&model)?;
    let vocab: Map<String, Value> = serde_json::from_value(model["vocab"].take())?;
    let mut tokens: Vec<(u64, String)> =
        vocab.into_iter().map(|(token, id)| (id.as_u64().unwrap_or_default(), token)).collect();
    tokens.sort();
    Ok((tokens.into_iter().map(|(_, token)| token).collect(), model["merges"].take()))
}

/// Instructions as people give them to robot arms.
fn corpus() -> Vec<String> {
    const VERBS: [&str; 16] = [
        "pick up",
        "grasp",
        "grab",
        "lift",
        "push",
        "pull",
        "move",
        "rotate",
        "turn over",
        "take",
        "hold",
        "release",
        "drop",
        "wipe",
        "fold",
        "stack",
    ];
    const OBJECTS: [&str; 24] = [
        "cube",
        "red cube",
        "green block",
        "blue ball",
        "yellow lego brick",
        "pink pen",
        "black marker",
        "cup",
        "coffee mug",
        "plate",
        "bowl",
        "spoon",
        "fork",
        "bottle",
        "can",
        "sponge",
        "towel",
        "cloth",
        "screwdriver",
        "battery",
        "apple",
        "banana",
        "toy car",
        "cardboard box",
    ];
    const PLACES: [&str; 14] = [
        "in the box",
        "in the bin",
        "in the basket",
        "into the drawer",
        "on the table",
        "on the plate",
        "on the shelf",
        "on top of the stack",
        "to the left",
        "to the right",
        "next to the bowl",
        "behind the cup",
        "in front of the robot",
        "between the two lines",
    ];
    let mut sentences = Vec::new();
    for (index, object) in OBJECTS.iter().enumerate() {
        for verb in VERBS {
            sentences.push(format!("{verb} the {object}\n"));
        }
        for place in PLACES {
            sentences.push(format!("Pick up the {object} and place it {place}.\n"));
            sentences.push(format!("put the {object} {place}\n"));
        }
        sentences.push(format!("open the gripper, then move {index} centimetres towards the {object}\n"));
        sentences.push(format!("close the gripper around the {object} and lift it {}0 mm\n", index % 9 + 1));
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(vocabulary: &Vocabulary) -> tokenizers::Tokenizer {
        let bytes = to_bytes(&tokenizer(vocabulary).unwrap(), 1);
        tokenizers::Tokenizer::from_bytes(bytes).unwrap()
    }

    #[test]
    fn special_tokens_have_the_published_ids() {
        let base = load(&BASE);
        assert_eq!(base.token_to_id("<fake_token_around_image>"), Some(49_189));
        assert_eq!(base.token_to_id("<global-img>"), Some(49_152));
        assert_eq!(base.token_to_id("<image>"), Some(49_190));
        assert_eq!(base.token_to_id("<end_of_utterance>"), Some(49_279));
        assert_eq!(base.token_to_id("<|im_end|>"), Some(2));
        assert_eq!(base.get_vocab_size(true), 49_280);
        assert_eq!(load(&TINY).get_vocab_size(true), 384);
    }

    #[test]
    fn any_text_survives_a_round_trip() {
        for vocabulary in [&BASE, &TINY] {
            let tokenizer = load(vocabulary);
            for text in ["pick up the cube\n", "Größe 42 → 7½ 🤖", "\t x"] {
                let encoding = tokenizer.encode(text, true).unwrap();
                assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
                assert!(encoding.get_ids().iter().all(|id| (*id as usize) < vocabulary.size));
            }
        }
    }

    #[test]
    fn learned_words_are_short_and_digits_apart() {
        let tokenizer = load(&BASE);
        let tokens = |text| tokenizer.encode(text, true).unwrap().get_tokens().join("|");
        assert_eq!(tokens("pick up the cube"), "pick|Ġup|Ġthe|Ġcube");
        assert_eq!(tokens("1234"), "1|2|3|4");
    }

    #[test]
    fn training_is_deterministic() {
        assert_eq!(train(377).unwrap(), train(377).unwrap());
    }
}
