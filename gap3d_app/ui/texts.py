"""Every sentence of the page that is not a setting's own help."""

TITLE = "GAP3D"
TAGLINE = "Words, a picture, or both, to a textured 3D model. Everything runs on this machine."
MODEL_LABEL = "Model"
THINGS = "What it knows by name: {count} kinds of things"
NO_CARD = "There is no graphics card here: an asset of full-size weights takes many minutes."
COST = "About {time} here."
COST_COMPILE = "The first run with these weights takes up to a minute more: it compiles them for this graphics card."
COST_LENT = "About {time}; the shared graphics card is asked for {asked} s."
VIEWS_LABEL = "More pictures of the same object"
MORE_FILES = "Add files"
MULTI_LABEL = "With several pictures"
MULTI_HELP = "In turns: every step follows one picture. Together: every step follows the mean; slower."
MULTI = {"stochastic": "In turns", "multidiffusion": "Together"}
MESH_LABEL = "Keep the shape of a mesh (GLB)"
PROMPT_LABEL = "What should it be?"
PROMPT_PLACEHOLDER = "a small red toy airplane"
PICTURE_LABEL = "Picture (optional)"
PICTURE_PLACEHOLDER = "Drop a picture here or choose a file\nPNG, JPEG or WebP"
EXAMPLE_PROMPTS_LABEL = "Try a prompt"
EXAMPLE_PICTURES_LABEL = "Try a picture"
CUT_OUT_EMPTY = "The object, cut out of your picture, appears here before you run."
METHOD_LABEL = "Background removal"
METHODS = {
    "auto": "Automatic",
    "alpha": "Transparency in the file",
    "border": "Plain background",
    "u2net": "U2-Net model",
    "none": "Keep the whole picture",
}
METHOD_FOUND = {
    "alpha": "Cut out by the transparency in the file.",
    "border": "Cut out by its plain background.",
    "u2net": "Cut out by the U2-Net model.",
    "none": "The whole picture is used.",
}
BLEND_LABEL = "Blend: words to picture"
RANDOMISE = "New seed for every run"
GENERATE = "Generate"
CANCEL = "Cancel"
ADVANCED = "Advanced settings"
FROM_PRESET = "preset"

VIEWER_LABEL = "3D model"
VIEWER_EMPTY = "No 3D model yet"
VIEWER_KEYS = "3D model: the arrow keys turn it, Alt with them zooms"
STAGES = {
    "prompt": "Prompt",
    "grid": "Token grid",
    "structure": "Voxels",
    "slat": "Surface",
    "decode": "Decode",
    "mesh": "Mesh",
    "files": "Texture, files",
}
IDLE = "Ready. A run takes these steps, each with its seconds."
LOADING = "Loading the model, this happens once"
RUNNING = "{stage}: step {step} of {of}"
WRITING = "Baking the texture and writing files"
TOTAL = "Total"
DONE = "Done in {seconds:.1f} s"
CANCELLED = "Cancelled. The next run can start."
FAILED = "This run did not finish"
REFUSED = "Not started"

TILES = {
    "grid": ("Token grid", "What the 3D stages get to see, as colours", "Picture of the token grid: similar "
             "colours are similar features"),
    "structure": ("Voxels", "Which cells of space are filled", "Rendering of the occupied voxels"),
    "surface": ("Surface", "The shape before its texture", "Rendering of the surface"),
}

GLB = "Download GLB"
PLY = "Gaussians (PLY)"
RECIPE = "Recipe (JSON)"
TURNTABLE = "Turntable (MP4)"
TURNTABLE_MAKING = "Rendering {percent} %"
TURNTABLE_GONE = "This result has been deleted from the server; generate it again for a turntable."

PRIVACY = (
    "Pictures and results stay on the server that runs this page, under unguessable names, and are deleted after "
    "two hours; whoever has a file's link can open it until then. No other host is contacted."
)

NO_FETCH = "This page fetches nothing from other hosts; upload the file instead of giving an address."
PICTURE_NOT_A_FILE = "The picture did not arrive as a file; upload it as PNG, JPEG or WebP."
MESH_NOT_A_FILE = "The mesh did not arrive as a file; upload it as GLB."
NOTHING_GIVEN = "There is nothing to work from: give a prompt, a picture, or both."
NOT_STORED = "The server could not store the result, perhaps because its disk is full; try again later."
UNEXPECTED = "Something went wrong on the server (error {mark}); try again, and report this mark if it stays."
VIBE_MODE = "GRADIO_VIBE_MODE is set, which lets visitors run code on this machine; unset it to start the page."
ERROR_TITLE = "Not possible"
LISTENING = "The page is at {address} - stop it with Ctrl-C."
