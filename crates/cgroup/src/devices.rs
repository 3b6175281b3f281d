//! Device allow-lists of the unified hierarchy, which has no file for them: a small program that the kernel asks.
//!
//! The program gets the kind, the access and the numbers of a device and answers 1 to allow. Every program on the way
//! from the root to a group has to allow, so a group can only be stricter than those above.

use std::fs::File;

use crate::error::Error;
use crate::group::{Group, file};
use crate::limits::DeviceRule;
use crate::sys::{self, Instruction};

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_VALUE: u8 = 0xb7;
const AND_VALUE: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_UNEQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// Registers: the answer, the context (then scratch), kind, access, major, minor.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

impl Group {
    /// Makes the unified hierarchy's group refuse every device but those of the rules.
    pub fn attach_device_filter(&self, rules: &[DeviceRule]) -> Result<(), Error> {
        let dir = self.unified_dir().ok_or(Error::NoController("unified"))?;
        let open = File::open(&dir).map_err(|source| file("open", &dir, source))?;
        let program = sys::load_device_program(&program(rules)).map_err(|source| file("load device filter for", &dir, source))?;
        sys::attach_device_program(&open, &program).map_err(|source| file("attach device filter to", &dir, source))
    }
}

fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: (from << 4) | to, offset, value }
}

fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_WORD, KIND, CONTEXT, 0, 0),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        op(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(AND_VALUE, KIND, 0, 0, 0xffff),
    ];
    for rule in rules {
        code.extend(rule_code(rule));
    }
    code.extend([op(MOVE_VALUE, ANSWER, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

/// Answers 1 if the rule fits; otherwise goes on behind it.
fn rule_code(rule: &DeviceRule) -> Vec<Instruction> {
    let mut tests: Vec<(u8, i32)> = Vec::new();
    match rule.kind {
        'b' => tests.push((KIND, BLOCK)),
        'c' => tests.push((KIND, CHARACTER)),
        _ => {}
    }
    tests.extend(rule.major.map(|number| (MAJOR, number as i32)));
    tests.extend(rule.minor.map(|number| (MINOR, number as i32)));
    let allowed = [('m', MAKE), ('r', READ), ('w', WRITE)]
        .into_iter()
        .filter(|(letter, _)| rule.access.contains(*letter))
        .fold(0, |bits, (_, bit)| bits | bit);
    // The scratch register gets what is asked for beyond what is allowed; that has to be nothing.
    let mut code = vec![op(MOVE_REGISTER, CONTEXT, ACCESS, 0, 0), op(AND_VALUE, CONTEXT, 0, 0, !allowed & 7)];
    tests.insert(0, (CONTEXT, 0));
    for (place, (register, value)) in tests.iter().enumerate() {
        let to_the_end = tests.len() - place - 1 + 2;
        code.push(op(JUMP_UNEQUAL, *register, 0, to_the_end as i16, *value));
    }
    code.extend([op(MOVE_VALUE, ANSWER, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    code
}
