//! A target that is QEMU behind its GDB stub: the firmware of a real board, in a machine with the same core and the same
//! memory. What a debug probe does for such a board, GDB's remote serial protocol does here
//! (<https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html>).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::process::{Child, Command, Stdio};

use espalier::device::probe::link::{Found, Link, LinkError, Probes, Registers};

/// Bytes of memory in one packet; QEMU's longest has 4,096 characters.
const CHUNK: usize = 1024;
const INTERRUPT: u8 = 3;

/// A machine of QEMU in place of a board with a probe.
#[derive(Clone, Debug)]
pub struct Machine {
    /// QEMU's name for it.
    pub name: &'static str,
    /// Its flash.
    pub flash: Range<u64>,
    /// Where the sectors start that differ from the one before, and their bytes.
    pub sectors: &'static [(u64, u64)],
    /// Something that the target does besides.
    pub trick: Option<Trick>,
}

/// Something that happens to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// It is reset after so many accesses to memory since the start.
    ResetAfter(usize),
}

impl Probes for Machine {
    fn list(&self) -> Vec<Found> {
        vec![super::target::probe("QEMU")]
    }

    fn attach(&self, _: &Found, _: &str) -> Result<Box<dyn Link>, LinkError> {
        let qemu = Qemu::start(self.clone()).map_err(lost)?;
        Ok(Box::new(qemu))
    }
}

/// A running QEMU; it does not outlive this value, nor does what was flashed.
struct Qemu {
    machine: Machine,
    child: Child,
    stub: BufReader<TcpStream>,
    running: bool,
    accesses: usize,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lost(error: io::Error) -> LinkError {
    LinkError::Lost(error.to_string())
}

impl Qemu {
    fn start(machine: Machine) -> io::Result<Self> {
        // The system has a free port; nobody takes it in between but by bad luck.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let mut command = Command::new("qemu-system-arm");
        command.args([
            "-machine",
            machine.name,
            "-display",
            "none",
            "-monitor",
            "none",
        ]);
        command.args(["-serial", "null", "-icount", "shift=0", "-S"]);
        command.args(["-gdb", &format!("tcp:127.0.0.1:{port}")]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        let mut qemu = Self {
            machine,
            child,
            stub: BufReader::new(connect(port)?),
            running: false,
            accesses: 0,
        };
        // Empty flash is all ones, not zeros.
        let flash = qemu.machine.flash.clone();
        qemu.fill(flash)?;
        Ok(qemu)
    }

    fn fill(&mut self, range: Range<u64>) -> io::Result<()> {
        for address in range.step_by(CHUNK) {
            self.store(address, &[0xFF; CHUNK])?;
        }
        Ok(())
    }

    /// Sends a packet and gives the answer.
    fn call(&mut self, packet: &str) -> io::Result<String> {
        self.send(packet)?;
        self.answer()
    }

    fn send(&mut self, packet: &str) -> io::Result<()> {
        let sum = packet.bytes().fold(0, u8::wrapping_add);
        write!(self.stub.get_mut(), "${packet}#{sum:02x}")
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut packet = Vec::new();
        self.stub.read_until(b'#', &mut packet)?;
        self.stub.read_exact(&mut [0; 2])?;
        self.stub.get_mut().write_all(b"+")?;
        let start = packet.iter().position(|&byte| byte == b'$');
        let body = start.and_then(|at| packet.get(at + 1..packet.len() - 1));
        Ok(String::from_utf8_lossy(body.unwrap_or_default()).into_owned())
    }

    /// Does something with a core that stands still, as the stub wants, and lets it go on where it ran.
    fn stopped<T>(&mut self, act: impl FnOnce(&mut Self) -> io::Result<T>) -> Result<T, LinkError> {
        let all = || {
            self.pause()?;
            let done = act(self)?;
            self.resume()?;
            Ok(done)
        };
        all().map_err(lost)
    }

    fn pause(&mut self) -> io::Result<()> {
        if self.running {
            self.stub.get_mut().write_all(&[INTERRUPT])?;
            self.answer()?;
        }
        Ok(())
    }

    fn resume(&mut self) -> io::Result<()> {
        if self.running {
            self.accesses += 1;
            if self.machine.trick == Some(Trick::ResetAfter(self.accesses)) {
                self.reset()?;
            }
            self.send("c")?;
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        let command: String = "system_reset"
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.call(&format!("qRcmd,{command}"))?;
        // The reset comes a moment later, with the address from the table of vectors.
        let start = self.machine.flash.start + 4;
        let wanted = u32::from_le_bytes(self.load(start, 4)?.try_into().unwrap_or_default()) & !1;
        while self.register(15)? != wanted {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }

    fn register(&mut self, number: usize) -> io::Result<u32> {
        let all = bytes(&self.call("g")?);
        let word = all.get(4 * number..).and_then(<[u8]>::first_chunk);
        Ok(word.copied().map_or(0, u32::from_le_bytes))
    }

    fn load(&mut self, address: u64, count: usize) -> io::Result<Vec<u8>> {
        let answer = self.call(&format!("m{address:x},{count:x}"))?;
        let bytes = bytes(&answer);
        match bytes.len() == count {
            true => Ok(bytes),
            false => Err(io::Error::other(format!("{address:#x}: {answer}"))),
        }
    }

    fn store(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let data: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match &*self.call(&format!("M{address:x},{:x}:{data}", bytes.len()))? {
            "OK" => Ok(()),
            other => Err(io::Error::other(format!("{address:#x}: {other}"))),
        }
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    for _ in 0..500 {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    Err(io::Error::other("QEMU does not open its GDB stub"))
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks_exact(2);
    let numbers = digits.map(|pair| std::str::from_utf8(pair).ok());
    let numbers = numbers.map_while(|pair| u8::from_str_radix(pair?, 16).ok());
    numbers.collect()
}

impl Link for Qemu {
    fn chip(&self) -> Option<&str> {
        None
    }

    fn sector(&self, address: u64) -> Option<Range<u64>> {
        if !self.machine.flash.contains(&address) {
            return None;
        }
        let mut kinds = self.machine.sectors.iter();
        let &(first, size) = kinds.rfind(|kind| kind.0 <= address)?;
        let start = first + (address - first) / size * size;
        Some(start..start + size)
    }

    fn erase(&mut self, sectors: Range<u64>) -> Result<(), LinkError> {
        assert!(!self.running, "flash is erased under a running firmware");
        self.fill(sectors).map_err(lost)
    }

    fn program(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError> {
        assert!(!self.running, "flash is written under a running firmware");
        for (index, bytes) in bytes.chunks(CHUNK).enumerate() {
            let address = address + (index * CHUNK) as u64;
            self.store(address, bytes).map_err(lost)?;
        }
        Ok(())
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), LinkError> {
        self.stopped(|qemu| {
            for (index, bytes) in bytes.chunks_mut(CHUNK).enumerate() {
                let address = address + (index * CHUNK) as u64;
                bytes.copy_from_slice(&qemu.load(address, bytes.len())?);
            }
            Ok(())
        })
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError> {
        self.stopped(|qemu| qemu.store(address, bytes))
    }

    fn reset_and_halt(&mut self) -> Result<(), LinkError> {
        self.halt()?;
        self.reset().map_err(lost)
    }

    fn run(&mut self) -> Result<(), LinkError> {
        if !self.running {
            self.send("c").map_err(lost)?;
            self.running = true;
        }
        Ok(())
    }

    fn halt(&mut self) -> Result<(), LinkError> {
        self.pause().map_err(lost)?;
        self.running = false;
        Ok(())
    }

    fn is_halted(&mut self) -> Result<bool, LinkError> {
        Ok(!self.running)
    }

    fn registers(&mut self) -> Result<Registers, LinkError> {
        assert!(!self.running, "registers of a running core");
        let mut read = |number| self.register(number).map_err(lost);
        Ok(Registers {
            sp: read(13)?,
            lr: read(14)?,
            pc: read(15)?,
        })
    }
}
