//! What a [`FpgaBackend`](crate::FpgaBackend) computes with.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use smolvla_core::BackendError;
use smolvla_core::backend::{AttentionMask, Matrix, Precision, Prepared};
use smolvla_core::weights::StorageType;

use crate::allocator::Block;
use crate::lower::product::Weights;
use crate::lower::{Places, Words};

/// A matrix on a card, or a part of one: slices of rows and columns are places in the whole.
pub struct FpgaTensor {
    pub(crate) words: Words,
    pub(crate) block: Arc<Block>,
    /// Other forms of it that have been made: what is made of it again finds them.
    forms: Mutex<Vec<(Form, Arc<Block>)>>,
}

/// A form of a matrix beside its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Digits of its rows.
    Rows(Places),
    /// Digits of each head's rows, at the beginning of as many as `tokens`.
    Keys { batch: usize, heads: usize, tokens: usize, places: Places },
    /// Digits of each head's columns.
    Values { batch: usize, heads: usize, places: Places },
    /// Each observation's rows as words, at the beginning of as many as `tokens`.
    Joined { batch: usize, heads: usize, tokens: usize },
}

impl FpgaTensor {
    pub(crate) fn new(words: Words, block: Arc<Block>) -> Self {
        Self { words, block, forms: Mutex::default() }
    }

    /// A part of it.
    pub(crate) fn part(&self, words: Words) -> Self {
        Self::new(words, Arc::clone(&self.block))
    }

    /// The form of it that there is, or that `make` makes.
    pub(crate) fn form(
        &self,
        form: Form,
        make: impl FnOnce() -> Result<Block, BackendError>,
    ) -> Result<Arc<Block>, BackendError> {
        if let Some(block) = self.found(form) {
            return Ok(block);
        }
        // Another thread may be making the same: each has a whole one, and the first is kept.
        let block = Arc::new(make()?);
        self.forms.lock().unwrap_or_else(PoisonError::into_inner).push((form, Arc::clone(&block)));
        Ok(block)
    }

    fn found(&self, form: Form) -> Option<Arc<Block>> {
        let forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        forms.iter().find(|(own, _)| *own == form).map(|(_, block)| Arc::clone(block))
    }
}

impl fmt::Debug for FpgaTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FpgaTensor").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Matrix for FpgaTensor {
    fn rows(&self) -> usize {
        self.words.rows as usize
    }
    fn cols(&self) -> usize {
        self.words.cols as usize
    }
}

/// A linear layer on a card: digits in panels, a scale for each output, and a bias.
#[derive(Debug)]
pub struct FpgaLinear {
    /// For consecutive inputs: from which on, how many, and what they are multiplied by. More than one where the buffers
    /// do not hold a row.
    pub(crate) parts: Vec<(usize, usize, Weights)>,
    /// Of the activations.
    pub(crate) places: Places,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) precision: Precision,
    /// Kept for as long as the layer is.
    pub(crate) _block: Block,
}

impl Prepared for FpgaLinear {
    fn inputs(&self) -> usize {
        self.inputs
    }
    fn outputs(&self) -> usize {
        self.outputs
    }
    fn precision(&self) -> Precision {
        self.precision
    }
}

/// An embedding table. It stays on the host as it was stored: a chunk reads a few dozen rows of it.
#[derive(Debug)]
pub struct FpgaTable {
    pub(crate) dtype: StorageType,
    pub(crate) bytes: Vec<u8>,
    pub(crate) rows: usize,
    pub(crate) width: usize,
}

impl Prepared for FpgaTable {
    fn inputs(&self) -> usize {
        self.rows
    }
    fn outputs(&self) -> usize {
        self.width
    }
    fn precision(&self) -> Precision {
        Precision::F32
    }
}

/// A mask on a card: a byte for each query and key.
#[derive(Debug)]
pub struct FpgaMask {
    pub(crate) block: Block,
    pub(crate) pitch: u32,
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
}

impl AttentionMask for FpgaMask {
    fn batch(&self) -> usize {
        self.batch
    }
    fn queries(&self) -> usize {
        self.queries
    }
    fn keys(&self) -> usize {
        self.keys
    }
}
