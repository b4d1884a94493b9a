//! Text <-> ids: the text side of a loaded model, put together from the files beside the weights.
//!
//! ```text
//! tokenizer.json  -> `tokenizers` ----------------------.
//! tokenizer.model -> sentencepiece: pieces, their merging -> tokenizer: encode, encode_with_control
//!                                                         -> decoder: ids -> text as it comes -> stop
//! messages -> chat: template, contents made unable to form control tokens -> ids
//! tokenizer_config.json, generation_config.json -> settings: BOS, EOS, template
//! ```

mod chat;
mod decoder;
pub mod part;
mod settings;
mod stop;
mod tokenizer;

pub use chat::{ChatInput, ChatTemplate};
pub use decoder::Decoder;
pub use settings::{GenerationConfig, SpecialTokens, TokenizerConfig};
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;
#[cfg(not(target_arch = "wasm32"))]
pub use tokenizer::sentencepiece_pieces;

use crate::config::Config;
use crate::error::{Error, Result};

/// The files beside the weights, each as it was found or not.
#[derive(Default)]
pub struct TextFiles {
    pub tokenizer_json: Option<Vec<u8>>,
    pub tokenizer_model: Option<Vec<u8>>,
    pub tokenizer_config: Option<String>,
    pub generation_config: Option<String>,
    pub chat_template: Option<String>,
}

/// Text <-> ids for one model.
pub struct TextModel {
    name: String,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    settings: TokenizerConfig,
    /// `None`: a completion model.
    template: Option<ChatTemplate>,
}

impl TextModel {
    /// `name` is what messages call the model. `tokenizer.json` is preferred to `tokenizer.model` where both exist.
    ///
    /// # Errors
    /// [`Error::FileNotFound`] without a tokenizer file; whatever is wrong in one of the files; [`Error::Tokenizer`] if
    /// the tokenizer knows more ids than the embedding has rows.
    pub fn new(name: &str, config: &Config, files: &TextFiles) -> Result<Self> {
        let tokenizer = match (&files.tokenizer_json, &files.tokenizer_model) {
            (Some(json), _) => Tokenizer::from_json(json)?,
            (None, Some(model)) => Tokenizer::from_sentencepiece(model)?,
            (None, None) => {
                return Err(Error::FileNotFound {
                    file: "tokenizer.json or tokenizer.model".into(),
                    searched: name.into(),
                });
            }
        };
        if tokenizer.vocab_size() > config.vocab_size {
            let problem =
                format!("{} tokens, but the model's vocabulary has {}", tokenizer.vocab_size(), config.vocab_size);
            return Err(Error::tokenizer("tokenizer", problem));
        }
        let settings = files.tokenizer_config.as_deref().map(TokenizerConfig::parse).transpose()?;
        let generation = files.generation_config.as_deref().map(GenerationConfig::parse).transpose()?;
        if let Some(generation) = &generation {
            let checked = config.check_ids(&generation.eos_token_ids);
            checked.map_err(|problem| Error::generation_config("eos_token_id", problem))?;
        }
        let template = settings
            .as_ref()
            .unwrap_or(&TokenizerConfig::default())
            .chat_template(files.chat_template.as_deref(), name);
        let template = match template {
            Err(Error::NoChatTemplate { .. }) => None,
            other => Some(other?),
        };
        let special = SpecialTokens::resolve(
            config.bos_token_id,
            &config.eos_token_ids,
            generation.as_ref(),
            settings.as_ref(),
            &tokenizer,
        );
        Ok(TextModel { name: name.into(), tokenizer, special, settings: settings.unwrap_or_default(), template })
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Every id that ends a generation.
    pub fn eos(&self) -> &[u32] {
        &self.special.eos
    }

    /// Whether the tokenizer encodes nothing without [`part`]'s module.
    pub fn needs_part(&self) -> bool {
        self.tokenizer.part().is_some()
    }

    /// Opens what of the module the tokenizer needs, which shows whether its file is sound.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] names what is broken.
    pub fn open_part(&self) -> Result<()> {
        let opened = self.tokenizer.part().map(part::LazyPart::open).transpose();
        opened.map(|_| ()).map_err(|problem| Error::tokenizer("tokenizer.json", problem))
    }

    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Ids of a plain prompt, beginning with BOS where the model is used to it. Control tokens spelt out in the text stay text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.special.bos.filter(|_| self.special.add_bos).into_iter().collect();
        ids.extend(self.tokenizer.encode(text)?);
        Ok(ids)
    }

    /// Ids of a conversation, through the model's chat template.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] for a completion model; [`Error::Template`] if the template rejects the messages.
    pub fn encode_chat(&self, chat: &ChatInput) -> Result<Vec<u32>> {
        self.template()?.encode(&self.tokenizer, chat)
    }

    /// The same, through another template (Jinja source) if one is given.
    pub fn encode_chat_with(&self, template: Option<&str>, chat: &ChatInput) -> Result<Vec<u32>> {
        match template {
            None => self.encode_chat(chat),
            Some(_) => self.settings.chat_template(template, &self.name)?.encode(&self.tokenizer, chat),
        }
    }

    /// The same as text, for people to read.
    pub fn render_chat(&self, chat: &ChatInput) -> Result<String> {
        self.template()?.render(chat)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::NoChatTemplate { model: self.name.clone() })
    }
}
