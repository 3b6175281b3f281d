//! The tree of an expression. Macros are nodes of their own, so that whoever evaluates needs no expansion.

/// An expression with its place in the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// What it is.
    pub node: Node,
    /// Byte offset of the token that names it (the operator of a binary one).
    pub at: u32,
    /// Levels of the tree from here down.
    pub(crate) depth: u16,
}

/// What an expression is.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`, `true`, `1`, `1u`, `1.0`, `"a"`, `b"a"`.
    Literal(Literal),
    /// A name; a leading dot stands for the root and is part of it.
    Name(String),
    /// `a.b`, or `a.?b`.
    Select {
        /// `a`.
        operand: Box<Expr>,
        /// `b`.
        field: String,
        /// With a question mark.
        optional: bool,
    },
    /// `a[b]`, or `a[?b]`.
    Index {
        /// `a`.
        operand: Box<Expr>,
        /// `b`.
        index: Box<Expr>,
        /// With a question mark.
        optional: bool,
    },
    /// `f(x)` or `a.f(x)`.
    Call {
        /// `a`.
        target: Option<Box<Expr>>,
        /// `f`.
        function: String,
        /// `x`.
        args: Vec<Expr>,
    },
    /// `!a`, `-a`.
    Unary(Unary, Box<Expr>),
    /// `a + b` and the like.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `a && b && c`.
    And(Vec<Expr>),
    /// `a || b || c`.
    Or(Vec<Expr>),
    /// `a ? b : c`.
    Conditional(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `[a, ?b]`.
    List(Vec<Item>),
    /// `{a: b, ?c: d}`.
    Map(Vec<Pair>),
    /// `Object.spec{a: b}`.
    Message {
        /// Name of the type.
        name: String,
        /// Fields.
        fields: Vec<FieldInit>,
    },
    /// `has(a.b)`.
    Has {
        /// `a`.
        operand: Box<Expr>,
        /// `b`.
        field: String,
    },
    /// `a.all(x, p)` and the other macros over lists and maps.
    Macro {
        /// Which.
        kind: Macro,
        /// `a`.
        range: Box<Expr>,
        /// `x`, or the index or key when there are two.
        first: String,
        /// The second variable.
        second: Option<String>,
        /// What follows the variables.
        args: Vec<Expr>,
    },
}

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `"a"`
    String(String),
    /// `b"a"`
    Bytes(Vec<u8>),
}

/// Operators with one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    /// `!`
    Not,
    /// `-`
    Negate,
}

/// Operators with two operands, without `&&` and `||`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
    /// `in`
    In,
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Modulo,
}

/// Macros over lists and maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macro {
    /// `all`
    All,
    /// `exists`
    Exists,
    /// `exists_one`, `existsOne`
    ExistsOne,
    /// `map`, with an optional filter before the value
    Map,
    /// `filter`
    Filter,
    /// `transformList`
    TransformList,
    /// `transformMap`
    TransformMap,
    /// `transformMapEntry`
    TransformMapEntry,
    /// `sortBy`
    SortBy,
    /// `optMap`
    OptMap,
    /// `optFlatMap`
    OptFlatMap,
}

/// An item of a list literal.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The item.
    pub value: Expr,
    /// Left out when it is an empty optional.
    pub optional: bool,
}

/// An entry of a map literal.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The key.
    pub key: Expr,
    /// The value.
    pub value: Expr,
    /// Left out when the value is an empty optional.
    pub optional: bool,
}

/// A field of a message literal.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldInit {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Expr,
    /// Left out when the value is an empty optional.
    pub optional: bool,
}
