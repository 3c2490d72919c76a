//! Names of the places in the graph that can be observed.

use std::fmt;

/// A part of the computation, as timings and progress report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Patches, vision tower and connector.
    Vision,
    /// Prefix and language-model layers.
    Prefill,
    /// Denoising steps.
    Denoise,
}

impl Stage {
    /// The name timings and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Prefill => "prefill",
            Self::Denoise => "denoise",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A value in the graph. Its `Display` form is the name goldens and reports use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Site {
    /// Patch and position embeddings, `[batch·cameras·patches, vision width]`.
    VisionEmbeddings,
    /// Output of a vision block.
    VisionLayer(usize),
    /// After the vision tower's last norm.
    VisionOutput,
    /// Image tokens, before scaling: `[batch·cameras·tokens, text width]`.
    Connector,
    /// The prefix, `[batch·prefix tokens, text width]`.
    PrefixEmbeddings,
    /// Residual stream after a language-model layer.
    TextLayer(usize),
    /// Rotated keys of a language-model layer.
    TextKey(usize),
    /// Values of a language-model layer.
    TextValue(usize),
    /// Embedded noisy actions and time, `[batch·chunk, expert width]`.
    Suffix {
        /// Denoising step.
        step: usize,
    },
    /// Residual stream after the expert layer that runs beside a language-model layer.
    ExpertLayer {
        /// Denoising step.
        step: usize,
        /// Index of the language-model layer.
        layer: usize,
    },
    /// Predicted velocity, `[batch·chunk, action width]`.
    Velocity {
        /// Denoising step.
        step: usize,
    },
    /// Noisy actions before a step; after the last one, the actions.
    Actions {
        /// Denoising step.
        step: usize,
    },
}

impl Site {
    /// The part of the computation it belongs to.
    pub fn stage(self) -> Stage {
        match self {
            Self::VisionEmbeddings | Self::VisionLayer(_) | Self::VisionOutput | Self::Connector => {
                Stage::Vision
            }
            Self::PrefixEmbeddings | Self::TextLayer(_) | Self::TextKey(_) | Self::TextValue(_) => {
                Stage::Prefill
            }
            Self::Suffix { .. } | Self::ExpertLayer { .. } | Self::Velocity { .. } | Self::Actions { .. } => {
                Stage::Denoise
            }
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VisionEmbeddings => write!(f, "vision.embeddings"),
            Self::VisionLayer(layer) => write!(f, "vision.layers.{layer}"),
            Self::VisionOutput => write!(f, "vision.output"),
            Self::Connector => write!(f, "connector"),
            Self::PrefixEmbeddings => write!(f, "prefix.embeddings"),
            Self::TextLayer(layer) => write!(f, "text.layers.{layer}"),
            Self::TextKey(layer) => write!(f, "text.layers.{layer}.key"),
            Self::TextValue(layer) => write!(f, "text.layers.{layer}.value"),
            Self::Suffix { step } => write!(f, "steps.{step}.suffix"),
            Self::ExpertLayer { step, layer } => write!(f, "steps.{step}.layers.{layer}"),
            Self::Velocity { step } => write!(f, "steps.{step}.velocity"),
            Self::Actions { step } => write!(f, "steps.{step}.x"),
        }
    }
}

/// Watches a run: progress for people, values for comparisons. Can also feed it other values.
pub trait Observer {
    /// A value has been computed (or enqueued).
    fn reached(&mut self, site: Site) {
        let _ = site;
    }

    /// Whether [`Observer::value`] should get this site's value. Asking for a site inside a denoising step
    /// runs the composed step where a backend would run a fused one.
    fn wants(&self, site: Site) -> bool {
        let _ = site;
        false
    }

    /// A value that [`Observer::wants`] asked for, row-major `[rows, cols]`. The sites of the
    /// vision stage come once for each group of images that goes through the tower together: cameras whose images have
    /// different sizes are apart, and so are images beyond [`crate::Capabilities::max_tensor_bytes`].
    fn value(&mut self, site: Site, rows: usize, cols: usize, values: Vec<f32>) {
        let _ = (site, rows, cols, values);
    }

    /// Numbers to go on with in place of this site's value, `rows·cols` of them; `None` keeps the value. A stage can
    /// so be computed from another implementation's inputs (teacher forcing), which tells an error that a stage
    /// makes from one that it inherits. Asked after [`Observer::value`]; inside a denoising step only for sites that
    /// [`Observer::wants`].
    fn replacement(&mut self, site: Site, rows: usize, cols: usize) -> Option<Vec<f32>> {
        let _ = (site, rows, cols);
        None
    }
}

/// An [`Observer`] that watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
