// A compute unit as Verilator translates it, behind functions that Rust calls (src/rtl/ffi.rs): drives the clock, the
// registers as a host would, and a memory behind the AXI4 port.
//
// The memory answers a read `latency` cycles after its address, then gives a beat a cycle, in order; it takes a beat a
// cycle and acknowledges a burst `latency` cycles after its last beat, and holds what was written only from then on, which
// is all that AXI promises. With a seed it also stalls each channel at random.
// What breaks AXI's rules, as this design needs them, ends a run with PROTOCOL.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>

#include "Vsmolvla_cu.h"
#include "verilated.h"
#ifdef SMOLVLA_RTL_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr uint64_t BANKS = 32;
constexpr uint64_t BEAT = 64;
constexpr uint8_t OKAY = 0;
constexpr uint8_t DECODE_ERROR = 3;
constexpr unsigned OPS = 9;

// Registers: rtl/top/control.sv.
constexpr uint32_t CONTROL = 0x00, INTERRUPTS_ON = 0x04, INTERRUPT_ENABLE = 0x08, INTERRUPT_STATUS = 0x0c;
constexpr uint32_t STREAM = 0x10, LIMIT = 0x1c, CYCLES = 0x40, DESCRIPTORS = 0x48, ERROR = 0x4c, READ = 0x50,
                   WRITTEN = 0x58, BUSY = 0x60;

}  // namespace

extern "C" {

struct SmolvlaRequest {
    // Banks of `bank_bytes`; null: not there, and an error of the bus.
    uint8_t* banks[BANKS];
    uint64_t bank_bytes;
    uint64_t stream;
    uint64_t limit;
    uint64_t latency;
    // 0: no stalls.
    uint64_t seed;
    // Cycles without any transfer on the memory's port after which a run is given up.
    uint64_t patience;
};

enum SmolvlaState : uint64_t { ENDED = 0, STUCK = 1, PROTOCOL = 2 };

struct SmolvlaOutcome {
    uint64_t state;
    uint64_t error;
    uint64_t op;
    uint64_t cycles;
    uint64_t descriptors;
    uint64_t beats_read;
    uint64_t beats_written;
    uint64_t busy[OPS];
};
}

namespace {

struct Burst {
    uint64_t address;
    uint32_t beats;
    uint64_t ready;
};

// A burst whose beats have all come.
struct Written {
    size_t beats;
    bool well;
    uint64_t ready;
};

// A beat that memory does not hold yet; null: there is no memory.
struct Beat {
    uint8_t* to;
    uint64_t strobes;
    uint8_t data[BEAT];
};

class Unit {
public:
    explicit Unit(const char* trace) {
        context_ = std::make_unique<VerilatedContext>();
#ifdef SMOLVLA_RTL_TRACE
        if (trace) {
            context_->traceEverOn(true);
            trace_ = std::make_unique<VerilatedVcdC>();
        }
#endif
        top_ = std::make_unique<Vsmolvla_cu>(context_.get());
#ifdef SMOLVLA_RTL_TRACE
        if (trace) {
            top_->trace(trace_.get(), 99);
            trace_->open(trace);
        }
#endif
        (void)trace;
        top_->ap_clk = 0;
        top_->eval();
    }

    ~Unit() {
#ifdef SMOLVLA_RTL_TRACE
        if (trace_) trace_->close();
#endif
        top_->final();
    }

    void run(const SmolvlaRequest& request, SmolvlaOutcome& outcome) {
        request_ = &request;
        outcome = SmolvlaOutcome{};
        outcome_ = &outcome;
        random_ = request.seed;
        reads_.clear();
        writes_.clear();
        acknowledged_.clear();
        beats_.clear();
        beats_of_burst_ = 0;
        r_valid_ = b_valid_ = false;
        quiet_ = 0;

        // A run that was given up may have left anything.
        top_->ap_rst_n = 0;
        for (int i = 0; i < 8; i++) tick();
        top_->ap_rst_n = 1;
        for (int i = 0; i < 4; i++) tick();

        write_register(INTERRUPTS_ON, 1);
        write_register(INTERRUPT_ENABLE, 1);
        write_register(STREAM, static_cast<uint32_t>(request.stream));
        write_register(STREAM + 4, static_cast<uint32_t>(request.stream >> 32));
        write_register(LIMIT, static_cast<uint32_t>(request.limit));
        quiet_ = 0;
        write_register(CONTROL, 1);
        while (!top_->__SYM__interrupt && fine()) tick();
        // Nothing is left on the way once the unit says that it is done.
        if (!settled()) fail(PROTOCOL);
        if (fine()) {
            write_register(INTERRUPT_STATUS, 1);
            // Read once, as it is cleared by reading: done, ready and idle, and started no more.
            const bool well = read_register(CONTROL) == 0xe && !top_->__SYM__interrupt;
            if (!well) fail(PROTOCOL);
        }
        if (!fine()) return;
        outcome.cycles = read_register_pair(CYCLES);
        outcome.descriptors = read_register(DESCRIPTORS);
        const uint32_t error = read_register(ERROR);
        outcome.error = error & 0xff;
        outcome.op = error >> 8 & 0xff;
        outcome.beats_read = read_register_pair(READ);
        outcome.beats_written = read_register_pair(WRITTEN);
        for (unsigned i = 0; i < OPS; i++) outcome.busy[i] = read_register_pair(BUSY + 8 * i);
        if (!settled()) fail(PROTOCOL);
    }

private:
    bool fine() const { return outcome_->state == ENDED; }

    void fail(SmolvlaState state) {
        if (fine()) outcome_->state = state;
    }

    bool settled() const {
        return reads_.empty() && writes_.empty() && acknowledged_.empty() && !r_valid_ && !b_valid_;
    }

    // A beat's place in memory; null where there is none.
    uint8_t* at(uint64_t address) const {
        const uint64_t bank = address / request_->bank_bytes;
        if (bank >= BANKS || !request_->banks[bank]) return nullptr;
        return request_->banks[bank] + address % request_->bank_bytes;
    }

    // Whether a channel goes on in this cycle: three times in four where there are stalls, in runs.
    bool goes() {
        if (!request_->seed) return true;
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        return (random_ >> 20 & 3) != 0;
    }

    void take_burst(std::deque<Burst>& queue, uint64_t address, uint32_t beats, uint64_t ready) {
        const bool crosses = (address % 4096) + beats * BEAT > 4096;
        if (address % BEAT || beats > 64 || crosses) fail(PROTOCOL);
        queue.push_back({address, beats, ready});
    }

    // A cycle. The unit's outputs come from registers, so what they are after an edge is what the memory sees at the
    // next: one evaluation a cycle suffices.
    void tick() {
        auto& t = *top_;
        const bool in_reset = !t.ap_rst_n;
        // Reads.
        if (!r_valid_ && !reads_.empty() && reads_.front().ready <= time_ && goes()) {
            const Burst& burst = reads_.front();
            const uint8_t* from = at(burst.address);
            r_valid_ = true;
            if (from) std::memcpy(&t.m_axi_gmem_rdata, from, BEAT);
            t.m_axi_gmem_rresp = from ? OKAY : DECODE_ERROR;
            t.m_axi_gmem_rlast = burst.beats == 1;
        }
        t.m_axi_gmem_rvalid = r_valid_;
        t.m_axi_gmem_arready = goes();
        // Writes: a beat is taken where its address has come.
        if (!b_valid_ && !acknowledged_.empty() && acknowledged_.front().ready <= time_ && goes()) {
            b_valid_ = true;
            const Written& burst = acknowledged_.front();
            t.m_axi_gmem_bresp = burst.well ? OKAY : DECODE_ERROR;
            for (size_t i = 0; i < burst.beats; i++) settle();
        }
        t.m_axi_gmem_bvalid = b_valid_;
        t.m_axi_gmem_awready = goes();
        t.m_axi_gmem_wready = !writes_.empty() && goes();

        bool moved = false;
        if (!in_reset) {
            if (t.m_axi_gmem_arvalid && t.m_axi_gmem_arready) {
                moved = true;
                take_burst(reads_, t.m_axi_gmem_araddr, t.m_axi_gmem_arlen + 1u, time_ + request_->latency);
            }
            if (r_valid_ && t.m_axi_gmem_rready) {
                moved = true;
                r_valid_ = false;
                Burst& burst = reads_.front();
                burst.address += BEAT;
                if (--burst.beats == 0) reads_.pop_front();
            }
            if (t.m_axi_gmem_wvalid && t.m_axi_gmem_wready) {
                moved = true;
                write_beat();
            }
            if (t.m_axi_gmem_awvalid && t.m_axi_gmem_awready) {
                moved = true;
                take_burst(writes_, t.m_axi_gmem_awaddr, t.m_axi_gmem_awlen + 1u, OKAY);
            }
            if (b_valid_ && t.m_axi_gmem_bready) {
                moved = true;
                b_valid_ = false;
                acknowledged_.pop_front();
            }
        }
        quiet_ = moved ? 0 : quiet_ + 1;
        if (quiet_ > request_->patience) fail(STUCK);

        t.ap_clk = 1;
        t.eval();
        dump(0);
        t.ap_clk = 0;
        t.eval();
        dump(5);
        time_++;
    }

    void write_beat() {
        auto& t = *top_;
        Burst& burst = writes_.front();
        Beat& beat = beats_.emplace_back();
        beat.to = at(burst.address);
        beat.strobes = t.m_axi_gmem_wstrb;
        std::memcpy(beat.data, &t.m_axi_gmem_wdata, BEAT);
        if (!beat.to) burst.ready = DECODE_ERROR;
        burst.address += BEAT;
        beats_of_burst_++;
        burst.beats--;
        if (t.m_axi_gmem_wlast != (burst.beats == 0)) fail(PROTOCOL);
        if (burst.beats == 0) {
            acknowledged_.push_back({beats_of_burst_, burst.ready == OKAY, time_ + request_->latency});
            beats_of_burst_ = 0;
            writes_.pop_front();
        }
    }

    // Memory takes the oldest beat that it does not hold yet.
    void settle() {
        const Beat& beat = beats_.front();
        if (beat.to && beat.strobes == ~uint64_t{0}) {
            std::memcpy(beat.to, beat.data, BEAT);
        } else if (beat.to) {
            for (uint64_t i = 0; i < BEAT; i++) {
                if (beat.strobes >> i & 1) beat.to[i] = beat.data[i];
            }
        }
        beats_.pop_front();
    }

    void dump(uint64_t part) {
#ifdef SMOLVLA_RTL_TRACE
        if (trace_) trace_->dump(time_ * 10 + part);
#endif
        (void)part;
    }

    void write_register(uint32_t address, uint32_t word) {
        auto& t = *top_;
        t.s_axi_control_awaddr = address;
        t.s_axi_control_awvalid = 1;
        wait_for(t.s_axi_control_awready);
        t.s_axi_control_awvalid = 0;
        t.s_axi_control_wdata = word;
        t.s_axi_control_wstrb = 0xf;
        t.s_axi_control_wvalid = 1;
        wait_for(t.s_axi_control_wready);
        t.s_axi_control_wvalid = 0;
        t.s_axi_control_bready = 1;
        wait_for(t.s_axi_control_bvalid);
        t.s_axi_control_bready = 0;
    }

    uint32_t read_register(uint32_t address) {
        auto& t = *top_;
        t.s_axi_control_araddr = address;
        t.s_axi_control_arvalid = 1;
        wait_for(t.s_axi_control_arready);
        t.s_axi_control_arvalid = 0;
        t.s_axi_control_rready = 1;
        while (!t.s_axi_control_rvalid && fine()) tick();
        const uint32_t word = t.s_axi_control_rdata;
        tick();
        t.s_axi_control_rready = 0;
        return word;
    }

    uint64_t read_register_pair(uint32_t address) {
        const uint64_t low = read_register(address);
        return low | static_cast<uint64_t>(read_register(address + 4)) << 32;
    }

    // Until the unit's side of a handshake is high, and the cycle in which it happens.
    void wait_for(const uint8_t& signal) {
        while (!signal && fine()) tick();
        tick();
    }

    std::unique_ptr<VerilatedContext> context_;
    std::unique_ptr<Vsmolvla_cu> top_;
#ifdef SMOLVLA_RTL_TRACE
    std::unique_ptr<VerilatedVcdC> trace_;
#endif
    const SmolvlaRequest* request_ = nullptr;
    SmolvlaOutcome* outcome_ = nullptr;
    std::deque<Burst> reads_;
    std::deque<Burst> writes_;
    std::deque<Written> acknowledged_;
    std::deque<Beat> beats_;
    size_t beats_of_burst_ = 0;
    bool r_valid_ = false;
    bool b_valid_ = false;
    uint64_t time_ = 0;
    uint64_t quiet_ = 0;
    uint64_t random_ = 0;
};

}  // namespace

extern "C" {

// `trace` is null, or a file that takes a waveform (VCD) where this was built with one.
void* smolvla_cu_new(const char* trace) { return new Unit(trace); }

void smolvla_cu_delete(void* unit) { delete static_cast<Unit*>(unit); }

void smolvla_cu_run(void* unit, const SmolvlaRequest* request, SmolvlaOutcome* outcome) {
    static_cast<Unit*>(unit)->run(*request, *outcome);
}
}
