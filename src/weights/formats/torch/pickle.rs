//! The pickle of a state dict of plain tensors, run on a machine that knows only the opcodes and names which that takes.

use crate::weights::Dtype;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Longest pickle, in bytes; that of the 1.5B model has 100 KB.
pub const MAX_PICKLE: u64 = 2 << 20;

/// What is wrong, for an error that names the file.
type Problem<T> = std::result::Result<T, String>;

/// Opcodes, as Python's `pickle` names them.
mod op {
    pub const PROTO: u8 = 0x80;
    pub const FRAME: u8 = 0x95;
    pub const MARK: u8 = b'(';
    pub const NONE: u8 = b'N';
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const BINFLOAT: u8 = b'G';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const LONG1: u8 = 0x8a;
    pub const BINUNICODE: u8 = b'X';
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const EMPTY_DICT: u8 = b'}';
    pub const EMPTY_LIST: u8 = b']';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const TUPLE: u8 = b't';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const MEMOIZE: u8 = 0x94;
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';
    pub const APPEND: u8 = b'a';
    pub const APPENDS: u8 = b'e';
    pub const SETITEM: u8 = b's';
    pub const SETITEMS: u8 = b'u';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const STOP: u8 = b'.';
}

/// One tensor of the state dict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub name: Rc<str>,
    pub storage: Storage,
    /// In elements.
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub dtype: Dtype,
    pub key: Rc<str>,
    pub elements: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Dtype),
}

fn unread(name: &str, bits: u64) -> Global {
    Global::Storage(Dtype::Unread { name: name.into(), bits })
}

fn global(module: &str, name: &str) -> Problem<Global> {
    match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("torch", "HalfStorage") => Ok(Global::Storage(Dtype::F16)),
        ("torch", "BFloat16Storage") => Ok(Global::Storage(Dtype::Bf16)),
        ("torch", "FloatStorage") => Ok(Global::Storage(Dtype::F32)),
        ("torch", "BoolStorage" | "ByteStorage" | "CharStorage") => Ok(unread(name, 8)),
        ("torch", "ShortStorage") => Ok(unread(name, 16)),
        ("torch", "IntStorage") => Ok(unread(name, 32)),
        ("torch", "LongStorage" | "DoubleStorage" | "ComplexFloatStorage") => Ok(unread(name, 64)),
        _ => Err(format!("{module}.{name} is not one of the names that are read")),
    }
}

/// Values lie in one list and refer to each other by number: no depth of nesting can overflow the stack.
type Id = usize;

#[derive(Debug, Clone)]
enum Value {
    /// None, a float, an attribute's state: nothing that is looked at.
    Other,
    Mark,
    Int(i64),
    Text(Rc<str>),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor {
        storage: Storage,
        offset: u64,
        shape: Vec<u64>,
        strides: Vec<u64>,
    },
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    memo: HashMap<u64, Id>,
}

/// Runs a pickle whose result is a dict of named tensors.
pub fn unpickle(bytes: &[u8]) -> Problem<Vec<Stored>> {
    let mut machine = Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
    let result = loop {
        if let Some(result) = machine.step()? {
            break result;
        }
    };
    let Value::Dict(items) = machine.value(result) else { return Err("the result is not a dict".into()) };
    let mut seen = HashSet::new();
    let mut tensors = Vec::with_capacity(items.len());
    for (key, value) in items {
        let Value::Text(name) = machine.value(*key) else { return Err("a key is not a text".into()) };
        let Value::Tensor { storage, offset, shape, strides } = machine.value(*value).clone() else {
            return Err(format!("{name} is not a tensor"));
        };
        if !seen.insert(name) {
            return Err(format!("tensor {name} is given twice"));
        }
        tensors.push(Stored { name: name.clone(), storage, offset, shape, strides });
    }
    Ok(tensors)
}

impl<'a> Machine<'a> {
    fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    fn take(&mut self, n: u64) -> Problem<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let part = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("cut off")?;
        self.at += part.len();
        Ok(part)
    }

    fn number<const N: usize>(&mut self) -> Problem<u64> {
        Ok(self.take(N as u64)?.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn text(&mut self, len: u64) -> Problem<&'a str> {
        std::str::from_utf8(self.take(len)?).map_err(|_| "a text is not UTF-8".into())
    }

    fn line(&mut self) -> Problem<&'a str> {
        let len = self.bytes[self.at..].iter().position(|&b| b == b'\n').ok_or("cut off")?;
        let line = self.text(len as u64)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Problem<Id> {
        match self.stack.pop() {
            Some(id) if !matches!(self.value(id), Value::Mark) => Ok(id),
            _ => Err("the stack is empty".into()),
        }
    }

    fn top(&self) -> Problem<Id> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> Problem<Vec<Id>> {
        let mark = self.stack.iter().rposition(|&id| matches!(self.value(id), Value::Mark)).ok_or("no mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, n: usize) -> Problem<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Problem<Vec<_>>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Problem<()> {
        let dict = self.top()?;
        if !items.len().is_multiple_of(2) {
            return Err("a key has no value".into());
        }
        match &mut self.values[dict] {
            Value::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err("items are set in what is not a dict".into()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Problem<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Problem<()> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("memo {key} is empty"))?;
        self.stack.push(id);
        Ok(())
    }

    /// One opcode; the result at the last.
    fn step(&mut self) -> Problem<Option<Id>> {
        match self.number::<1>()? as u8 {
            op::PROTO => match self.number::<1>()? {
                2..=5 => {}
                other => return Err(format!("protocol {other} is not supported")),
            },
            op::FRAME => drop(self.number::<8>()?),
            op::MARK => self.push(Value::Mark),
            op::NONE | op::NEWTRUE | op::NEWFALSE => self.push(Value::Other),
            op::BINFLOAT => {
                self.take(8)?;
                self.push(Value::Other);
            }
            op::BININT => {
                let n = self.number::<4>()? as u32 as i32;
                self.push(Value::Int(n.into()));
            }
            op::BININT1 => {
                let n = self.number::<1>()? as i64;
                self.push(Value::Int(n));
            }
            op::BININT2 => {
                let n = self.number::<2>()? as i64;
                self.push(Value::Int(n));
            }
            op::LONG1 => {
                let len = self.number::<1>()?;
                let bytes = self.take(len)?;
                if bytes.len() > 8 {
                    return Err("a number has more than 64 bits".into());
                }
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                self.push(Value::Int(i64::from_le_bytes(wide)));
            }
            op::BINUNICODE => {
                let len = self.number::<4>()?;
                let text = self.text(len)?;
                self.push(Value::Text(text.into()));
            }
            op::SHORT_BINUNICODE => {
                let len = self.number::<1>()?;
                let text = self.text(len)?;
                self.push(Value::Text(text.into()));
            }
            op::EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            op::EMPTY_LIST => self.push(Value::List),
            op::EMPTY_TUPLE => self.push(Value::Tuple(Vec::new())),
            op::TUPLE1 => self.tuple(1)?,
            op::TUPLE2 => self.tuple(2)?,
            op::TUPLE3 => self.tuple(3)?,
            op::TUPLE => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            op::BINPUT => {
                let key = self.number::<1>()?;
                self.remember(key)?;
            }
            op::LONG_BINPUT => {
                let key = self.number::<4>()?;
                self.remember(key)?;
            }
            op::MEMOIZE => self.remember(self.memo.len() as u64)?,
            op::BINGET => {
                let key = self.number::<1>()?;
                self.recall(key)?;
            }
            op::LONG_BINGET => {
                let key = self.number::<4>()?;
                self.recall(key)?;
            }
            op::APPEND => drop(self.pop()?), // lists are not looked at
            op::APPENDS => drop(self.pop_to_mark()?),
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            op::SETITEMS => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            op::BUILD => drop(self.pop()?), // attributes such as _metadata
            op::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(global(module, name)?));
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (self.value(module), self.value(name)) else {
                    return Err("a name is not a text".into());
                };
                let global = global(module, name)?;
                self.push(Value::Global(global));
            }
            op::BINPERSID => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Value::Storage(storage));
            }
            op::REDUCE => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let result = self.call(function, arguments)?;
                self.push(result);
            }
            op::STOP => return self.pop().map(Some),
            other => return Err(format!("opcode {other:#04x} is not one of those that are read")),
        }
        Ok(None)
    }

    fn items(&self, id: Id) -> Problem<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Ok(items),
            _ => Err("not a tuple".into()),
        }
    }

    fn sizes(&self, id: Id) -> Problem<Vec<u64>> {
        self.items(id)?.iter().map(|&item| self.size(item)).collect()
    }

    fn size(&self, id: Id) -> Problem<u64> {
        match self.value(id) {
            Value::Int(n) => u64::try_from(*n).map_err(|_| format!("{n} is not a size")),
            _ => Err("not a number".into()),
        }
    }

    /// `("storage", type, key, device, elements)`.
    fn storage(&self, id: Id) -> Problem<Storage> {
        let &[kind, dtype, key, _, elements] = self.items(id)? else {
            return Err("a persistent id is not a storage".into());
        };
        match (self.value(kind), self.value(dtype), self.value(key)) {
            (Value::Text(kind), Value::Global(Global::Storage(dtype)), Value::Text(key)) if &**kind == "storage" => {
                Ok(Storage { dtype: *dtype, key: key.clone(), elements: self.size(elements)? })
            }
            _ => Err("a persistent id is not a storage".into()),
        }
    }

    fn call(&self, function: Id, arguments: Id) -> Problem<Value> {
        let items = self.items(arguments)?;
        match (self.value(function), items) {
            (Value::Global(Global::OrderedDict), []) => Ok(Value::Dict(Vec::new())),
            (Value::Global(Global::RebuildParameter), [tensor, ..]) => match self.value(*tensor) {
                tensor @ Value::Tensor { .. } => Ok(tensor.clone()),
                _ => Err("a parameter is not a tensor".into()),
            },
            (Value::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                let Value::Storage(storage) = self.value(*storage) else {
                    return Err("a tensor without storage".into());
                };
                let (offset, shape, strides) = (self.size(*offset)?, self.sizes(*shape)?, self.sizes(*strides)?);
                if shape.len() != strides.len() || shape.len() > 8 {
                    return Err(format!("shape {shape:?} does not fit strides {strides:?}"));
                }
                Ok(Value::Tensor { storage: storage.clone(), offset, shape, strides })
            }
            _ => Err("a call that is not one of those that are read".into()),
        }
    }
}
