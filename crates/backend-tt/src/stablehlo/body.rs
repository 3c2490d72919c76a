//! The body of a function: operations on numbered values, each written down once.

use std::collections::HashMap;
use std::fmt;

use crate::tensix::Format;

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Element {
    F32,
    Bf16,
    I1,
}

impl Element {
    /// The finer of two types of floats: it holds every number of both.
    pub(super) fn finer(self, other: Self) -> Self {
        if self == Self::F32 { self } else { other }
    }
}

impl From<Format> for Element {
    /// Block floats have no type of their own: they travel as bfloat16, and a device stores them as it was told.
    fn from(format: Format) -> Self {
        match format {
            Format::F32 => Self::F32,
            Format::Bf16 | Format::Bfp8 | Format::Bfp4 => Self::Bf16,
        }
    }
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Type {
    pub(super) dims: Vec<usize>,
    pub(super) element: Element,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensor<")?;
        for dim in &self.dims {
            write!(f, "{dim}x")?;
        }
        f.write_str(match self.element {
            Element::F32 => "f32>",
            Element::Bf16 => "bf16>",
            Element::I1 => "i1>",
        })
    }
}

/// A value of a [`Body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(usize);

/// An operation and what it is set to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Argument(usize),
    /// One number everywhere, by the bits of an f32.
    Constant(u32),
    /// Operands and result of one type.
    Elementwise(&'static str),
    Convert,
    Select,
    Reshape,
    Broadcast(Vec<usize>),
    Transpose(Vec<usize>),
    Slice(Vec<usize>),
    Concatenate(usize),
    /// Contracts the last dimension of the first operand; the leading ones run in step.
    Dot {
        batching: usize,
        contracting: usize,
    },
    /// Over one dimension.
    Reduce(&'static str, usize),
    Composite {
        name: &'static str,
        attributes: String,
        function: String,
    },
    /// Says to Tenstorrent's compiler that the argument of this index is a parameter.
    Mark(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    kind: Kind,
    operands: Vec<Id>,
    result: Type,
}

/// Operations in the order in which they were asked for.
///
/// Asking for what is already there gives the value that is there: a mask that all layers read is prepared once.
/// Moves that undo each other cancel, and what nothing reads is not printed.
#[derive(Debug, Default)]
pub(super) struct Body {
    nodes: Vec<Node>,
    known: HashMap<Node, Id>,
}

impl Body {
    fn push(&mut self, kind: Kind, operands: Vec<Id>, dims: Vec<usize>, element: Element) -> Id {
        let node = Node { kind, operands, result: Type { dims, element } };
        if let Some(id) = self.known.get(&node) {
            return *id;
        }
        let id = Id(self.nodes.len());
        self.nodes.push(node.clone());
        self.known.insert(node, id);
        id
    }

    pub(super) fn type_of(&self, id: Id) -> &Type {
        &self.nodes[id.0].result
    }

    fn dims(&self, id: Id) -> Vec<usize> {
        self.type_of(id).dims.clone()
    }

    fn element(&self, id: Id) -> Element {
        self.type_of(id).element
    }

    /// The next argument. All arguments come before the first operation.
    pub(super) fn argument(&mut self, dims: Vec<usize>, element: Element) -> Id {
        self.push(Kind::Argument(self.nodes.len()), Vec::new(), dims, element)
    }

    /// The argument of this index, marked as a parameter.
    pub(super) fn mark(&mut self, argument: Id, index: usize) -> Id {
        self.push(Kind::Mark(index), vec![argument], self.dims(argument), self.element(argument))
    }

    /// `value` everywhere, as f32.
    pub(super) fn constant(&mut self, value: f32, dims: Vec<usize>) -> Id {
        self.push(Kind::Constant(value.to_bits()), Vec::new(), dims, Element::F32)
    }

    pub(super) fn unary(&mut self, name: &'static str, x: Id) -> Id {
        self.push(Kind::Elementwise(name), vec![x], self.dims(x), self.element(x))
    }

    pub(super) fn binary(&mut self, name: &'static str, a: Id, b: Id) -> Id {
        debug_assert_eq!(self.type_of(a), self.type_of(b), "{name}");
        self.push(Kind::Elementwise(name), vec![a, b], self.dims(a), self.element(a))
    }

    /// `x` and the f32 `value` under a function of two operands.
    pub(super) fn with_constant(&mut self, name: &'static str, x: Id, value: f32) -> Id {
        let value = self.constant(value, self.dims(x));
        self.binary(name, x, value)
    }

    pub(super) fn convert(&mut self, x: Id, element: Element) -> Id {
        let Node { kind, operands, result } = &self.nodes[x.0];
        if result.element == element {
            return x;
        }
        // Widening loses nothing, so narrowing again gives the number back. (The other way round it is a rounding.)
        if element == Element::Bf16 && *kind == Kind::Convert && self.element(operands[0]) == element {
            return operands[0];
        }
        self.push(Kind::Convert, vec![x], self.dims(x), element)
    }

    pub(super) fn select(&mut self, condition: Id, a: Id, b: Id) -> Id {
        self.push(Kind::Select, vec![condition, a, b], self.dims(a), self.element(a))
    }

    pub(super) fn reshape(&mut self, x: Id, dims: Vec<usize>) -> Id {
        let Node { kind, operands, .. } = &self.nodes[x.0];
        let source = if *kind == Kind::Reshape { operands[0] } else { x };
        if self.type_of(source).dims == dims {
            return source;
        }
        self.push(Kind::Reshape, vec![source], dims, self.element(x))
    }

    /// `axes[i]` is the dimension of the result that dimension `i` of `x` becomes; one of size 1 repeats.
    pub(super) fn broadcast(&mut self, x: Id, dims: Vec<usize>, axes: Vec<usize>) -> Id {
        if self.type_of(x).dims == dims {
            return x;
        }
        self.push(Kind::Broadcast(axes), vec![x], dims, self.element(x))
    }

    /// Dimension `i` of the result is dimension `order[i]` of `x`.
    pub(super) fn transpose(&mut self, x: Id, order: &[usize]) -> Id {
        let Node { kind, operands, .. } = &self.nodes[x.0];
        let (source, order) = match kind {
            Kind::Transpose(first) => (operands[0], order.iter().map(|axis| first[*axis]).collect()),
            _ => (x, order.to_vec()),
        };
        if order.iter().copied().eq(0..order.len()) {
            return source;
        }
        let from = &self.type_of(source).dims;
        let dims = order.iter().map(|axis| from[*axis]).collect();
        self.push(Kind::Transpose(order), vec![source], dims, self.element(x))
    }

    /// The indices `start..start + count` of one dimension.
    pub(super) fn slice(&mut self, x: Id, axis: usize, start: usize, count: usize) -> Id {
        let mut dims = self.dims(x);
        if dims[axis] == count {
            return x;
        }
        let mut starts = vec![0; dims.len()];
        (dims[axis], starts[axis]) = (count, start);
        self.push(Kind::Slice(starts), vec![x], dims, self.element(x))
    }

    /// Joins one or more values of one type along a dimension.
    pub(super) fn concatenate(&mut self, parts: Vec<Id>, axis: usize) -> Id {
        if let [only] = parts[..] {
            return only;
        }
        let mut dims = self.dims(parts[0]);
        dims[axis] = parts.iter().map(|part| self.type_of(*part).dims[axis]).sum();
        let element = self.element(parts[0]);
        self.push(Kind::Concatenate(axis), parts, dims, element)
    }

    /// `Σ a[.., i, k]·b[.., k, j]` in f32, over the last dimension of `a` and dimension `contracting` of `b`; the
    /// dimensions before the last two run in step. Operands of different types meet in the finer one.
    pub(super) fn dot(&mut self, a: Id, b: Id, contracting: usize) -> Id {
        let element = self.element(a).finer(self.element(b));
        let (a, b) = (self.convert(a, element), self.convert(b, element));
        let batching = self.type_of(a).dims.len() - 2;
        let mut dims = self.dims(a);
        // Of the last two dimensions of `b`, the one that is left.
        dims[batching + 1] = self.type_of(b).dims[2 * batching + 1 - contracting];
        self.push(Kind::Dot { batching, contracting }, vec![a, b], dims, Element::F32)
    }

    /// Joins the numbers along a dimension by a function of two operands, from `first` on; the dimension goes.
    pub(super) fn reduce(&mut self, name: &'static str, x: Id, axis: usize, first: f32) -> Id {
        let first = self.constant(first, Vec::new());
        let mut dims = self.dims(x);
        dims.remove(axis);
        self.push(Kind::Reduce(name, axis), vec![x, first], dims, self.element(x))
    }

    /// What `function` of the module computes, under a name that a compiler may know. The result is of the type of
    /// the first operand.
    pub(super) fn composite(
        &mut self,
        name: &'static str,
        attributes: String,
        function: String,
        operands: Vec<Id>,
    ) -> Id {
        let (dims, element) = (self.dims(operands[0]), self.element(operands[0]));
        self.push(Kind::Composite { name, attributes, function }, operands, dims, element)
    }

    /// The function that returns `results`. `declaration` comes before its arguments, an entry of `attributes` after
    /// each of them.
    pub(super) fn function<'a>(
        &'a self,
        declaration: &'a str,
        attributes: &'a [String],
        results: &'a [Id],
    ) -> FunctionText<'a> {
        FunctionText { body: self, declaration, attributes, results }
    }

    /// Which values `results` need.
    fn needed(&self, results: &[Id]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        for result in results {
            needed[result.0] = true;
        }
        // Operands come before what reads them, so one pass from the end meets every reader first.
        for index in (0..self.nodes.len()).rev() {
            if needed[index] {
                for operand in &self.nodes[index].operands {
                    needed[operand.0] = true;
                }
            }
        }
        needed
    }
}

/// Prints a function.
pub(super) struct FunctionText<'a> {
    body: &'a Body,
    declaration: &'a str,
    attributes: &'a [String],
    results: &'a [Id],
}

impl fmt::Display for FunctionText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { body, declaration, attributes, results } = *self;
        let needed = body.needed(results);
        let mut names = vec![String::new(); body.nodes.len()];
        write!(f, "  {declaration}(")?;
        let mut arguments = 0;
        for (node, name) in body.nodes.iter().zip(&mut names) {
            if let Kind::Argument(index) = node.kind {
                *name = format!("%arg{index}");
                let attribute = attributes.get(index).map_or("", String::as_str);
                let comma = if index == 0 { "" } else { ", " };
                write!(f, "{comma}{name}: {}{attribute}", node.result)?;
                arguments += 1;
            }
        }
        let types = || List(results.iter().map(|id| body.type_of(*id)));
        writeln!(f, ") -> ({}) {{", types())?;
        let mut count = 0;
        for index in arguments..body.nodes.len() {
            if needed[index] {
                names[index] = format!("%{count}");
                count += 1;
                write!(f, "    {} = stablehlo.", names[index])?;
                body.nodes[index].print(body, &names, f)?;
            }
        }
        writeln!(f, "    return {} : {}", List(results.iter().map(|id| &names[id.0])), types())?;
        f.write_str("  }\n")
    }
}

impl Node {
    /// The operation without its dialect.
    fn print(&self, body: &Body, names: &[String], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, operands, result } = self;
        let all = List(operands.iter().map(|id| &names[id.0]));
        match kind {
            Kind::Argument(_) => unreachable!("arguments are in the function's signature"),
            // Bits rather than digits: nothing is rounded on the way.
            Kind::Constant(bits) => return writeln!(f, "constant dense<0x{bits:08X}> : {result}"),
            Kind::Elementwise(function) => return writeln!(f, "{function} {all} : {result}"),
            Kind::Select => {
                return writeln!(f, "select {all} : {}, {result}", body.type_of(operands[0]));
            }
            Kind::Convert => write!(f, "convert {all}")?,
            Kind::Reshape => write!(f, "reshape {all}")?,
            Kind::Broadcast(axes) => write!(f, "broadcast_in_dim {all}, dims = {axes:?}")?,
            Kind::Transpose(order) => write!(f, "transpose {all}, dims = {order:?}")?,
            Kind::Slice(starts) => {
                let ranges = starts.iter().zip(&result.dims);
                let ranges = List(ranges.map(|(start, count)| format!("{start}:{}", start + count)));
                write!(f, "slice {all} [{ranges}]")?;
            }
            Kind::Concatenate(axis) => write!(f, "concatenate {all}, dim = {axis}")?,
            Kind::Dot { batching, contracting } => {
                write!(f, "dot_general {all}")?;
                if *batching > 0 {
                    let axes: Vec<usize> = (0..*batching).collect();
                    write!(f, ", batching_dims = {axes:?} x {axes:?}")?;
                }
                write!(f, ", contracting_dims = [{}] x [{contracting}]", batching + 1)?;
                if body.element(operands[0]) == Element::F32 {
                    f.write_str(", precision = [HIGHEST, HIGHEST]")?;
                }
            }
            Kind::Reduce(function, axis) => {
                let (x, first) = (&names[operands[0].0], &names[operands[1].0]);
                write!(
                    f,
                    "reduce({x} init: {first}) applies stablehlo.{function} across dimensions = [{axis}]"
                )?;
            }
            Kind::Mark(index) => {
                write!(
                    f,
                    "custom_call @tt.mark_argument({all}) {{api_version = 0 : i32, mhlo.frontend_attributes = "
                )?;
                write!(f, "{{ttcore.argument_type = \"parameter\", ttir.name = \"weight_{index}\"}}}}")?;
            }
            Kind::Composite { name, attributes, function } => {
                write!(f, "composite \"{name}\" {all} ")?;
                write!(f, "{{composite_attributes = {{{attributes}}}, decomposition = @{function}}}")?;
            }
        }
        writeln!(f, " : ({}) -> {result}", List(operands.iter().map(|id| body.type_of(*id))))
    }
}

/// Items with commas between them.
struct List<I>(I);

impl<I: Iterator<Item: fmt::Display> + Clone> fmt::Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.clone().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}
