//! Which precision each linear layer of a policy gets: a plan, as data.

use std::fmt;
use std::io;
use std::path::Path;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::backend::{Capabilities, Precision};
use crate::config::files::read_limited;
use crate::config::json::{self, Object};
use crate::error::{Error, Result};

/// Most bytes of a plan's file; one with a rule for every layer has some fifty thousand.
const LARGEST_FILE: u64 = 1 << 20;

/// Rules that [`PrecisionPlan`]'s `Display` names before it only counts them.
const MOST_SHOWN: usize = 4;

/// What problems with a plan are about, in [`Error::Input`].
const FIELD: &str = "precision";

/// A precision for every linear layer: a default, and rules for layers that get another one.
///
/// A rule names layers by their paths in the graph (see [`layer_paths`](crate::graph::layer_paths)), with `*` for
/// any run of characters, dots included. Of several rules that match a layer the last one wins. Embedding tables
/// and norms are no linear layers and keep their numbers.
///
/// ```
/// use smolvla_core::{Precision, PrecisionPlan};
///
/// let plan = PrecisionPlan::new("fast", Precision::Bf16)
///     .with_rule("expert.layers.*", Precision::Int8Weights, "read once a step")
///     .with_rule("expert.layers.0.*", Precision::Bf16, "");
/// assert_eq!(plan.precision_for("vision.layers.3.fc1"), Precision::Bf16);
/// assert_eq!(plan.precision_for("expert.layers.7.down"), Precision::Int8Weights);
/// assert_eq!(plan.precision_for("expert.layers.0.down"), Precision::Bf16);
/// assert_eq!(plan.to_string(), "fast (bf16, int8w for expert.layers.*, bf16 for expert.layers.0.*)");
/// ```
///
/// As a file, for [`PrecisionPlan::from_json_file`]:
///
/// ```json
/// {
///   "name": "fast",
///   "default": "bf16",
///   "rules": [{ "layers": "expert.layers.*", "precision": "int8w", "reason": "read once a step" }]
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrecisionPlan {
    name: Option<String>,
    default: Precision,
    rules: Vec<PrecisionRule>,
}

/// Another precision for some layers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrecisionRule {
    /// Paths of layers, with `*` for any run of characters.
    pub layers: String,
    /// What they get.
    pub precision: Precision,
    /// Why, for people; empty where nobody said.
    pub reason: String,
    /// Whether the rule may be about no layer of a checkpoint: only some have such layers.
    pub optional: bool,
}

impl PrecisionPlan {
    /// The name of the fastest plan that a backend recommends.
    pub const AUTO: &str = "auto";

    /// A plan without rules.
    pub fn new(name: impl Into<String>, default: Precision) -> Self {
        Self { name: Some(name.into()), default, rules: Vec::new() }
    }

    /// The same plan with one more rule, which wins over those before it. `reason` may be empty.
    #[must_use]
    pub fn with_rule(
        mut self,
        layers: impl Into<String>,
        precision: Precision,
        reason: impl Into<String>,
    ) -> Self {
        let (layers, reason) = (layers.into(), reason.into());
        self.rules.push(PrecisionRule { layers, precision, reason, optional: false });
        self
    }

    /// [`PrecisionPlan::with_rule`] for layers that only some checkpoints have; elsewhere the rule does nothing.
    #[must_use]
    pub fn with_optional_rule(
        mut self,
        layers: impl Into<String>,
        precision: Precision,
        reason: impl Into<String>,
    ) -> Self {
        let (layers, reason) = (layers.into(), reason.into());
        self.rules.push(PrecisionRule { layers, precision, reason, optional: true });
        self
    }

    /// What the plan is called; `None` for a plain [`Precision`].
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The precision of layers that no rule matches.
    pub fn default_precision(&self) -> Precision {
        self.default
    }

    /// The rules, in order: later ones win.
    pub fn rules(&self) -> &[PrecisionRule] {
        &self.rules
    }

    /// The precision of the layer at `path`.
    pub fn precision_for(&self, path: &str) -> Precision {
        let rule = self.rules.iter().rev().find(|rule| rule.matches(path));
        rule.map_or(self.default, |rule| rule.precision)
    }

    /// Every precision that a layer can get, each once, in the order of [`Precision::ALL`].
    pub fn precisions(&self) -> Vec<Precision> {
        let (default, rules) = self.effective();
        let used = |p: &Precision| default == *p || rules.iter().any(|rule| rule.precision == *p);
        Precision::ALL.iter().copied().filter(used).collect()
    }

    /// The one precision of all layers, if there is only one.
    pub fn uniform(&self) -> Option<Precision> {
        let (default, rules) = self.effective();
        rules.iter().all(|rule| rule.precision == default).then_some(default)
    }

    /// Reads a plan. Without a `name`, the file's own name without extension is the plan's.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read or is larger than 1 MiB, [`Error::Corrupt`] when it is not JSON,
    /// and [`Error::Config`] naming the key at fault: one that is missing, unknown or of a wrong value.
    pub fn from_json_file(file: &Path) -> Result<Self> {
        let value = json::parse(file, &read_limited(file, LARGEST_FILE)?)?;
        let root = Object::root(file, &value)?;
        only_keys(&root, &["name", "default", "rules"])?;
        let name = match text(&root, "name")? {
            Some(name) => name.to_owned(),
            None => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let rules = root.objects("rules")?.unwrap_or_default();
        let rules = rules.iter().map(PrecisionRule::from_json).collect::<Result<_>>()?;
        Ok(Self { name: Some(name), default: precision(&root, "default")?, rules })
    }

    /// The plan as [`PrecisionPlan::from_json_file`] reads it, with a newline at its end.
    pub fn to_json(&self) -> String {
        // Writing strings and arrays of them to memory cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The plan that `argument` asks for on a backend with these `capabilities`: one of the backend's own plans by
    /// name, else one of its precisions by name, else the plan in the file of that name.
    ///
    /// `auto` is there on every backend: on those that recommend nothing it is f32, and the plan says so.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no such plan, precision or file, or it needs a precision that the backend
    /// lacks, listing what the backend offers; otherwise as [`PrecisionPlan::from_json_file`].
    pub fn resolve(argument: &str, capabilities: &Capabilities) -> Result<Self> {
        if let Some(plan) = capabilities.plans.iter().find(|plan| plan.name() == Some(argument)) {
            return Ok(plan.clone());
        }
        let plan = if argument == Self::AUTO {
            let reason = format!("the backend `{}` recommends no other plan", capabilities.backend);
            Self::new(Self::AUTO, Precision::F32).with_rule("*", Precision::F32, reason)
        } else if let Some(precision) = Precision::named(argument) {
            precision.into()
        } else {
            Self::from_argument_file(argument, capabilities)?
        };
        plan.check_offered(capabilities)?;
        Ok(plan)
    }

    /// The plan in a file that may not exist, where the name of a plan or precision was as likely meant.
    fn from_argument_file(argument: &str, capabilities: &Capabilities) -> Result<Self> {
        match Self::from_json_file(Path::new(argument)) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Err(Error::input(
                FIELD,
                format!(
                    "there is no plan or file `{argument}`; {}, or name a JSON file",
                    offers(capabilities)
                ),
            )),
            result => result,
        }
    }

    fn check_offered(&self, capabilities: &Capabilities) -> Result<()> {
        let lacking = |precision: &Precision| !capabilities.precisions.contains(precision);
        let Some(lacking) = self.precisions().into_iter().find(lacking) else { return Ok(()) };
        let plan = match self.name() {
            Some(name) => format!(", which the plan `{name}` asks for"),
            None => String::new(),
        };
        let why = capabilities.why_not(lacking).map_or_else(String::new, |why| format!(": {why}"));
        Err(Error::input(
            FIELD,
            format!(
                "the backend `{}` has no {lacking}{plan}{why}; {}",
                capabilities.backend,
                offers(capabilities)
            ),
        ))
    }

    /// Refuses rules that are about none of `layers`: misspelt, or meant for another model.
    pub(crate) fn check_layers(&self, layers: &[String]) -> Result<()> {
        let idle = |rule: &&PrecisionRule| !rule.optional && !layers.iter().any(|layer| rule.matches(layer));
        let Some(rule) = self.rules.iter().find(idle) else { return Ok(()) };
        let plan = self.name().unwrap_or("without a name");
        Err(Error::input(
            FIELD,
            format!(
                "plan `{plan}`: the rule `{}` matches no linear layer of this checkpoint; {}",
                rule.layers,
                nearest(&rule.layers, layers)
            ),
        ))
    }

    /// The default and the rules that matter: what comes before a rule for all layers does not.
    fn effective(&self) -> (Precision, &[PrecisionRule]) {
        match self.rules.iter().rposition(PrecisionRule::is_about_all) {
            Some(index) => (self.rules[index].precision, &self.rules[index + 1..]),
            None => (self.default, &self.rules),
        }
    }
}

impl PrecisionRule {
    /// Whether this rule is about the layer at `path`.
    pub fn matches(&self, path: &str) -> bool {
        matches(&self.layers, path)
    }

    fn is_about_all(&self) -> bool {
        !self.layers.is_empty() && self.layers.bytes().all(|byte| byte == b'*')
    }

    fn from_json(rule: &Object<'_>) -> Result<Self> {
        only_keys(rule, &["layers", "precision", "reason", "optional"])?;
        let layers = text(rule, "layers")?.ok_or_else(|| {
            rule.error("layers", "is missing; expected a pattern such as \"expert.layers.*\"")
        })?;
        Ok(Self {
            layers: layers.to_owned(),
            precision: precision(rule, "precision")?,
            reason: rule.string("reason")?.unwrap_or_default().to_owned(),
            optional: rule.boolean("optional")?.unwrap_or(false),
        })
    }
}

/// All layers alike.
impl From<Precision> for PrecisionPlan {
    fn from(default: Precision) -> Self {
        Self { name: None, default, rules: Vec::new() }
    }
}

/// `f32`; `bf16, int8w for expert.layers.*`; with a name `fast (bf16, int8w for expert.layers.*)`.
impl fmt::Display for PrecisionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (default, rules) = self.effective();
        let mut text = default.to_string();
        let mut previous = None;
        for rule in rules.iter().take(MOST_SHOWN) {
            text += &match previous.replace(rule.precision) {
                Some(same) if same == rule.precision => format!(" and {}", rule.layers),
                _ => format!(", {} for {}", rule.precision, rule.layers),
            };
        }
        if rules.len() > MOST_SHOWN {
            text += &format!(", and {} more rules", rules.len() - MOST_SHOWN);
        }
        match &self.name {
            Some(name) => f.pad(&format!("{name} ({text})")),
            None => f.pad(&text),
        }
    }
}

impl Serialize for PrecisionPlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut plan = serializer.serialize_struct("PrecisionPlan", 3)?;
        plan.serialize_field("name", self.name().unwrap_or(self.default.name()))?;
        plan.serialize_field("default", &self.default)?;
        plan.serialize_field("rules", &self.rules)?;
        plan.end()
    }
}

impl Serialize for PrecisionRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rule = serializer.serialize_struct("PrecisionRule", 4)?;
        rule.serialize_field("layers", &self.layers)?;
        rule.serialize_field("precision", &self.precision)?;
        if self.reason.is_empty() {
            rule.skip_field("reason")?;
        } else {
            rule.serialize_field("reason", &self.reason)?;
        }
        if self.optional {
            rule.serialize_field("optional", &true)?;
        } else {
            rule.skip_field("optional")?;
        }
        rule.end()
    }
}

/// Whether `pattern`, in which `*` stands for any run of characters, is all of `text`: how rules name layers.
///
/// ```
/// use smolvla_core::precision::matches;
///
/// assert!(matches("expert.layers.*.down", "expert.layers.11.down"));
/// assert!(!matches("expert.layers.*.down", "text.layers.11.down"));
/// ```
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    // Splitting yields at least one part.
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // The first place of each part leaves most room for the next.
    for part in parts {
        match rest.find(part) {
            Some(start) => rest = &rest[start + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What a backend offers, for people: `the backend `cpu` offers f32, bf16, auto`.
fn offers(capabilities: &Capabilities) -> String {
    let precisions = capabilities.precisions.iter().map(|precision| precision.name());
    let plans = capabilities.plans.iter().filter_map(PrecisionPlan::name);
    let mut names: Vec<&str> = Vec::new();
    for name in precisions.chain(plans) {
        // A plan of a precision's name takes its place.
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("the backend `{}` offers {}", capabilities.backend, names.join(", "))
}

/// Layers that a pattern may have meant: those that begin most like it, with numbers left open.
fn nearest(pattern: &str, layers: &[String]) -> String {
    let common = |layer: &str| pattern.bytes().zip(layer.bytes()).take_while(|(a, b)| a == b).count();
    let most = layers.iter().map(|layer| common(layer)).max().unwrap_or_default();
    let mut families: Vec<String> = Vec::new();
    for layer in layers.iter().filter(|layer| most == 0 || common(layer) == most) {
        let family = if most == 0 { top(layer) } else { family(layer) };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    format!("there are {}", families.join(", "))
}

/// `expert.layers.7.down` → `expert.layers.*.down`.
pub(crate) fn family(layer: &str) -> String {
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    layer.split('.').map(|part| if number(&part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}

/// `expert.layers.7.down` → `expert.*`.
fn top(layer: &str) -> String {
    layer.split_once('.').map_or_else(|| layer.to_owned(), |(part, _)| format!("{part}.*"))
}

fn only_keys(object: &Object<'_>, known: &[&str]) -> Result<()> {
    match object.keys().find(|key| !known.contains(key)) {
        Some(key) => Err(object.error(key, format!("is unknown; expected {}", known.join(", ")))),
        None => Ok(()),
    }
}

/// A string that says something.
fn text<'a>(object: &Object<'a>, key: &str) -> Result<Option<&'a str>> {
    match object.string(key)? {
        Some(text) if text.trim().is_empty() => Err(object.error(key, "is empty")),
        text => Ok(text),
    }
}

fn precision(object: &Object<'_>, key: &str) -> Result<Precision> {
    let names = || Precision::ALL.iter().map(|precision| precision.name()).collect::<Vec<_>>().join(", ");
    let name = object
        .string(key)?
        .ok_or_else(|| object.error(key, format!("is missing; expected one of {}", names())))?;
    Precision::named(name)
        .ok_or_else(|| object.error(key, format!("is \"{name}\"; expected one of {}", names())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn capabilities() -> Capabilities {
        let precisions = [Precision::F32, Precision::Bf16, Precision::Int8Weights];
        let mut capabilities = Capabilities::new("mine", "a card", precisions);
        capabilities.plans = vec![fast()];
        capabilities
    }

    fn fast() -> PrecisionPlan {
        PrecisionPlan::new("fast", Precision::Bf16)
            .with_rule("expert.layers.*", Precision::Int8Weights, "read once a step")
            .with_rule("expert.layers.0.*", Precision::F32, "")
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn read(text: &str) -> Result<PrecisionPlan> {
        let (_folder, path) = file(text);
        PrecisionPlan::from_json_file(&path)
    }

    #[test]
    fn star_matches_any_run_of_characters() {
        for (pattern, text) in [
            ("connector", "connector"),
            ("*", "vision.layers.0.fc1"),
            ("vision.*", "vision.layers.0.fc1"),
            ("*.fc1", "vision.layers.0.fc1"),
            ("vision.*.fc1", "vision.layers.0.fc1"),
            ("*layers*0*", "vision.layers.10.fc1"),
            ("a*a", "aa"),
            ("*ab*ab", "abab"),
            ("a**b", "ab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("connector", "connectors"),
            ("", "connector"),
            ("vision", "vision.layers.0.fc1"),
            ("vision.*.fc", "vision.layers.0.fc1"),
            ("fc1", "vision.layers.0.fc1"),
            ("a*a", "a"),
            ("*ab*ab", "ab"),
            ("layers*", "vision.layers.0.fc1"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn last_rule_that_matches_wins() {
        let plan = fast();
        assert_eq!(plan.precision_for("state"), Precision::Bf16);
        assert_eq!(plan.precision_for("expert.layers.1.down"), Precision::Int8Weights);
        assert_eq!(plan.precision_for("expert.layers.0.down"), Precision::F32);
        let plan = plan.with_rule("*", Precision::F16, "");
        assert_eq!(plan.precision_for("expert.layers.0.down"), Precision::F16);
    }

    #[test]
    fn precisions_are_those_that_layers_can_get() {
        assert_eq!(fast().precisions(), [Precision::F32, Precision::Bf16, Precision::Int8Weights]);
        assert_eq!(fast().uniform(), None);
        let overruled = fast().with_rule("*", Precision::F16, "");
        assert_eq!(overruled.precisions(), [Precision::F16]);
        assert_eq!(overruled.uniform(), Some(Precision::F16));
        assert_eq!(PrecisionPlan::default().uniform(), Some(Precision::F32));
        let alike = PrecisionPlan::new("p", Precision::F32).with_rule("state", Precision::F32, "");
        assert_eq!(alike.uniform(), Some(Precision::F32));
    }

    #[test]
    fn display_is_short() {
        assert_eq!(PrecisionPlan::from(Precision::Bf16).to_string(), "bf16");
        let many = (0..9).fold(fast(), |plan, i| plan.with_rule(format!("l{i}"), Precision::F32, ""));
        assert_eq!(
            many.to_string(),
            "fast (bf16, int8w for expert.layers.*, f32 for expert.layers.0.* and l0 and l1, and 7 more rules)"
        );
    }

    #[test]
    fn written_plan_reads_as_the_same() {
        for plan in [fast(), PrecisionPlan::new("plain", Precision::F16)] {
            assert_eq!(read(&plan.to_json()).unwrap(), plan, "{}", plan.to_json());
        }
        // A plain precision has to be called something in a file.
        assert_eq!(
            read(&PrecisionPlan::from(Precision::Bf16).to_json()).unwrap(),
            PrecisionPlan::new("bf16", Precision::Bf16)
        );
    }

    #[test]
    fn file_without_name_or_rules_is_named_after_itself() {
        assert_eq!(read(r#"{"default": "f32"}"#).unwrap(), PrecisionPlan::new("plan", Precision::F32));
    }

    #[test]
    fn wrong_files_are_refused_by_file_and_key() {
        let known = "f32, bf16, f16, int8, int8w";
        for (text, culprits) in [
            ("{", &["is not JSON"][..]),
            ("[]", &["expected an object"]),
            ("{}", &["default: is missing", known]),
            (r#"{"default": "f7"}"#, &["default: is \"f7\"", known]),
            (r#"{"default": 8}"#, &["default: is 8; expected a string"]),
            (r#"{"default": "f32", "rule": []}"#, &["rule: is unknown; expected name, default, rules"]),
            (r#"{"default": "f32", "name": " "}"#, &["name: is empty"]),
            (r#"{"default": "f32", "rules": {}}"#, &["rules: is {}; expected an array"]),
            (r#"{"default": "f32", "rules": ["x"]}"#, &["rules[0]"]),
            (r#"{"default": "f32", "rules": [{"precision": "f32"}]}"#, &["rules[0].layers: is missing"]),
            (
                r#"{"default": "f32", "rules": [{"layers": "", "precision": "f32"}]}"#,
                &["rules[0].layers: is empty"],
            ),
            (r#"{"default": "f32", "rules": [{"layers": "*"}]}"#, &["rules[0].precision: is missing", known]),
            (
                r#"{"default": "f32", "rules": [{"layers": "*", "precision": "int9"}]}"#,
                &["rules[0].precision: is \"int9\"", known],
            ),
            (
                r#"{"default": "f32", "rules": [{"layers": "*", "precision": "f32", "why": ""}]}"#,
                &["rules[0].why: is unknown; expected layers, precision, reason"],
            ),
        ] {
            let message = read(text).unwrap_err().to_string();
            for culprit in culprits.iter().chain(&["plan.json"]) {
                assert!(message.contains(culprit), "{text}: no {culprit} in {message}");
            }
        }
        let large = format!(r#"{{"default": "f32", "name": "{}"}}"#, "x".repeat(1 << 20));
        let message = read(&large).unwrap_err().to_string();
        assert!(message.contains("plan.json: is larger than"), "{message}");
    }

    #[test]
    fn arguments_are_plans_then_precisions_then_files() {
        let resolve = |argument: &str| PrecisionPlan::resolve(argument, &capabilities());
        assert_eq!(resolve("fast").unwrap(), fast());
        assert_eq!(resolve("bf16").unwrap(), Precision::Bf16.into());
        let (_folder, path) = file(r#"{"name": "filed", "default": "bf16"}"#);
        assert_eq!(resolve(path.to_str().unwrap()).unwrap(), PrecisionPlan::new("filed", Precision::Bf16));

        let mut capabilities = capabilities();
        capabilities.plans.push(PrecisionPlan::new("auto", Precision::Int8Weights));
        let auto = PrecisionPlan::resolve("auto", &capabilities).unwrap();
        assert_eq!(auto.uniform(), Some(Precision::Int8Weights));
    }

    #[test]
    fn auto_of_a_backend_without_recommendation_is_f32_and_says_so() {
        let auto = PrecisionPlan::resolve("auto", &capabilities()).unwrap();
        assert_eq!((auto.uniform(), auto.to_string()), (Some(Precision::F32), "auto (f32)".to_owned()));
        assert!(auto.rules()[0].reason.contains("`mine` recommends no other plan"), "{auto:?}");
    }

    #[test]
    fn what_the_backend_lacks_is_refused_with_what_it_offers() {
        let offered = "the backend `mine` offers f32, bf16, int8w, fast";
        let refuse = |argument: &str, culprit: &str| {
            let message = PrecisionPlan::resolve(argument, &capabilities()).unwrap_err().to_string();
            assert!(message.starts_with("precision: "), "{message}");
            assert!(message.contains(culprit) && message.contains(offered), "{message}");
        };
        refuse("f7", "no plan or file `f7`");
        refuse("f16", "`mine` has no f16;");
        let (_folder, path) =
            file(r#"{"name": "p", "default": "f32", "rules": [{"layers": "state", "precision": "int8"}]}"#);
        refuse(path.to_str().unwrap(), "`mine` has no int8, which the plan `p` asks for");
    }

    #[test]
    fn rule_about_no_layer_is_refused_with_the_nearest() {
        let layers = ["vision.layers.0.fc1", "vision.layers.1.fc1", "expert.layers.0.down", "state"];
        let layers = layers.map(str::to_owned);
        fast().check_layers(&layers).unwrap();
        for (pattern, nearest) in [
            ("expert.layer.*", "there are expert.layers.*.down"),
            ("vision.layers.2.*", "there are vision.layers.*.fc1"),
            ("tower.*", "there are vision.*, expert.*, state"),
        ] {
            let plan = fast().with_rule(pattern, Precision::F32, "");
            let message = plan.check_layers(&layers).unwrap_err().to_string();
            assert!(message.starts_with("precision: plan `fast`: the rule `"), "{message}");
            assert!(message.contains(pattern) && message.ends_with(nearest), "{message}");
        }
    }
}
