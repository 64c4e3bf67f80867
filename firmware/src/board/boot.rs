//! What the boot ROM of some chips wants to find in flash before it starts the firmware: `boot` in board.toml. build.rs
//! has the linker put it there.

/// RP2040: its ROM copies the first 256 bytes of flash to RAM, compares their checksum and runs them. They set the
/// flash chip up to be read in place, and go on at the table of vectors behind them (RP2040 data sheet, "Second Stage").
#[cfg(boot = "rp2040")]
#[unsafe(link_section = ".boot2")]
#[used]
static SECOND_STAGE: [u8; 256] = rp2040_boot2::BOOT_LOADER_W25Q080;

/// RP2350: its ROM looks through the first 4 KiB of flash for a block that says what kind of image this is, and takes
/// the table of vectors from the start of flash (RP2350 data sheet, "Minimum viable image metadata").
#[cfg(boot = "rp2350")]
#[unsafe(link_section = ".image_definition")]
#[used]
static IMAGE_DEFINITION: [u32; 5] = [
    0xFFFF_DED3, // start of a block
    0x1021_0142, // an item of one word, of type "image": for the RP2350, its Arm cores, the secure state
    0x0000_01FF, // the last item: those before have one word
    0x0000_0000, // the next block of the loop is this one
    0xAB12_3579, // end of a block
];
