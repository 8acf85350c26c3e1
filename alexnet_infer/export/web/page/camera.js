// @ts-check
/** The camera: one stream at most, which ends as soon as it is not wanted any more. */

/** @typedef {"off" | "starting" | "on"} CameraState */

export class Camera {
  /**
   * @param {HTMLVideoElement} video where its picture is shown
   * @param {(state: CameraState) => void} changed
   * @param {(error: Error) => void} failed called if the camera can't be used or ends by itself
   */
  constructor(video, changed, failed) {
    this.video = video;
    this.changed = changed;
    this.failed = failed;
    this.current = 0; // the number of the last start or stop: what an earlier start does is undone
    /** @type {CameraState} */
    this.state = "off";
  }

  /**
   * Start it, and call `use` for one frame after another, `pause()` ms apart, until it is stopped.
   * @param {() => Promise<void>} use
   * @param {() => number} pause
   */
  async start(use, pause) {
    if (this.state !== "off") return;
    const mine = ++this.current;
    const fail = (/** @type {any} */ error) => {
      if (mine !== this.current) return;
      this.stop();
      this.failed(error);
    };
    this.set("starting");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (mine !== this.current) return;
      for (const track of stream.getTracks()) track.addEventListener("ended", () => fail(new Error("it was disconnected")));
      this.video.srcObject = stream;
      await this.video.play();
      if (mine !== this.current) return;
      this.set("on");
      while (mine === this.current) {
        await use();
        await new Promise((done) => setTimeout(done, pause()));
      }
    } catch (error) {
      fail(error);
    } finally {
      for (const track of stream?.getTracks() ?? []) track.stop();
    }
  }

  /** Stop it, or its start. */
  stop() {
    this.current++;
    const stream = /** @type {MediaStream | null} */ (this.video.srcObject);
    for (const track of stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.set("off");
  }

  set(/** @type {CameraState} */ state) {
    this.state = state;
    this.changed(state);
  }
}
