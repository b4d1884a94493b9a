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

pub use chat::{ChatInput, ChatTemplate, TemplateSource};
pub use decoder::Decoder;
pub use settings::{GenerationConfig, SpecialTokens, TokenizerConfig};
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;
#[cfg(not(target_arch = "wasm32"))]
pub use tokenizer::sentencepiece_pieces;

use crate::config::Config;
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The files beside the weights, each as it was found or not.
#[derive(Default)]
pub struct TextFiles {
    pub tokenizer_json: Option<Vec<u8>>,
    pub tokenizer_model: Option<Vec<u8>>,
    pub tokenizer_config: Option<String>,
    pub generation_config: Option<String>,
    pub chat_template: Option<String>,
    /// [`TOOL_TEMPLATE`]; where it was not looked for, [`TextModel::add_tool_template`] may bring it later.
    pub tool_template: Option<String>,
}

/// The template for conversations with tools, in the layout of transformers 4.52 and later.
pub const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";

/// Text <-> ids for one model.
pub struct TextModel {
    name: String,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    settings: TokenizerConfig,
    /// Of a completion model none. One that does not parse is an error of the chats that want it.
    templates: RefCell<Vec<TemplateSource>>,
    template: RefCell<Option<Rc<ChatTemplate>>>,
    /// Nobody need look for [`TOOL_TEMPLATE`] (any more).
    tool_template_known: Cell<bool>,
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
        let special = SpecialTokens::resolve(
            config.bos_token_id,
            &config.eos_token_ids,
            generation.as_ref(),
            settings.as_ref(),
            &tokenizer,
        );
        let settings = settings.unwrap_or_default();
        let mut templates = settings.templates(files.chat_template.as_deref());
        templates.extend(files.tool_template.as_deref().map(TemplateSource::tool_use));
        let template = settings.compile(&templates)?.map(Rc::new);
        let tool_template_known = templates.iter().any(|template| template.name == TemplateSource::TOOL_USE);
        Ok(TextModel {
            name: name.into(),
            tokenizer,
            special,
            settings,
            tool_template_known: Cell::new(tool_template_known || templates.is_empty()),
            templates: RefCell::new(templates),
            template: RefCell::new(template),
        })
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

    /// Whether there is a template that can be used, as far as can be told.
    pub fn has_chat_template(&self) -> bool {
        self.template.borrow().as_ref().is_some_and(|template| template.usable())
    }

    /// Whether [`TOOL_TEMPLATE`] might be there and was not looked for: true once.
    pub fn wants_tool_template(&self) -> bool {
        !self.tool_template_known.replace(true)
    }

    /// Adds the text of [`TOOL_TEMPLATE`].
    pub fn add_tool_template(&self, source: &str) -> Result<()> {
        self.templates.borrow_mut().push(TemplateSource::tool_use(source));
        let template = self.settings.compile(&self.templates.borrow())?.map(Rc::new);
        self.template.replace(template);
        Ok(())
    }

    /// What stands in the way of a chat through the model's template, or through this one, before anything is said.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] for a completion model; [`Error::Template`] if the template does not parse.
    pub fn check_template(&self, template: Option<&str>, tools: bool) -> Result<()> {
        self.template(template)?.check(tools)
    }

    /// Ids of a plain prompt, beginning with BOS where the model is used to it. Control tokens spelt out in the text stay text,
    /// or are read as such if `parse_special`: for prompts that no stranger had a hand in.
    pub fn encode_prompt(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let ids = self.encode_text(text, parse_special)?;
        let bos = self.special.bos.filter(|bos| self.special.add_bos && !(parse_special && ids.first() == Some(bos)));
        Ok(bos.into_iter().chain(ids).collect())
    }

    /// The same without BOS.
    pub fn encode_text(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        if parse_special { self.tokenizer.encode_with_control(text) } else { self.tokenizer.encode(text) }
    }

    /// Ids of a conversation, through the model's chat template.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] for a completion model; [`Error::Template`] if the template does not parse or rejects the messages.
    pub fn encode_chat(&self, chat: &ChatInput) -> Result<Vec<u32>> {
        self.encode_chat_with(None, chat)
    }

    /// The same, through another template (Jinja source) if one is given.
    pub fn encode_chat_with(&self, template: Option<&str>, chat: &ChatInput) -> Result<Vec<u32>> {
        self.template(template)?.encode(&self.tokenizer, chat)
    }

    /// The same as text, for people to read.
    pub fn render_chat(&self, chat: &ChatInput) -> Result<String> {
        self.template(None)?.render(chat)
    }

    /// The model's own, or that of this source.
    fn template(&self, source: Option<&str>) -> Result<Rc<ChatTemplate>> {
        let template = match source {
            None => self.template.borrow().clone(),
            Some(source) => self.settings.compile(&[TemplateSource::option(source)])?.map(Rc::new),
        };
        template.ok_or_else(|| Error::NoChatTemplate { model: self.name.clone() })
    }
}
